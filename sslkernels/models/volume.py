# SPDX-License-Identifier: Apache-2.0
"""A network of volumes: slices one above another."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class VolumeNet(nn.Module):
    """Map volumes ``(N, C, D, H, W)`` of any size to features ``(N, widths[-1])``.

    Each stage halves height and width, and keeps the slices, of which there are few.

    >>> import torch
    >>> from sslkernels.models.volume import VolumeNet
    >>> VolumeNet(1, (8, 16))(torch.randn(2, 1, 5, 24, 24)).shape
    torch.Size([2, 16])
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.feature_dim = widths[-1]
        layers: list[nn.Module] = []
        for width, after in pairwise((in_channels, *widths)):
            layers += [nn.Conv3d(width, after, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.layers(volumes).mean((2, 3, 4))
