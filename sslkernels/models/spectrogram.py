# SPDX-License-Identifier: Apache-2.0
"""A convolutional network for spectrograms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_list


class SpectrogramNet(nn.Module):
    """Map spectrograms ``(N, 1, mels, frames)`` of any length to features ``(N, 2 * widths[-1])``.

    Layers halve both sides; mean and maximum over time follow the mean over frequency, as BYOL-A pools (Niizumi et al.
    2021, section III).

    Args:
        widths: channels of each layer.

    >>> import torch
    >>> from sslkernels.models import SpectrogramNet
    >>> SpectrogramNet()(torch.randn(2, 1, 64, 96)).shape
    torch.Size([2, 128])
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        expected = "a whole number for each layer, such as (16, 32, 64)"
        listed = check_list("SpectrogramNet", "widths", widths, expected)
        sizes = [check_count("SpectrogramNet", f"widths[{place}]", width, 9) for place, width in enumerate(listed)]
        if not sizes:
            raise ValueError(f"SpectrogramNet: widths is empty; pass {expected}.")
        self.feature_dim = 2 * sizes[-1]
        layers: list[nn.Module] = []
        for before, width in zip((1, *sizes), sizes, strict=False):
            layers += [nn.Conv2d(before, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, spectrograms: Tensor) -> Tensor:
        frames = self.layers(spectrograms).mean(2)
        return torch.cat([frames.mean(2), frames.amax(2)], 1)
