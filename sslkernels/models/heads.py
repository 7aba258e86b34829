# SPDX-License-Identifier: Apache-2.0
"""Heads: from the backbone's features to the space of the loss."""

from __future__ import annotations

from torch import nn


class ProjectionHead(nn.Sequential):
    """SimCLR's projection (Chen et al. 2020, section 4.2): linear, BatchNorm, ReLU, linear.

    Args:
        in_dim, hidden_dim, out_dim: features ``(N, in_dim)`` become ``(N, out_dim)``.

    >>> import torch
    >>> from sslkernels.models import ProjectionHead
    >>> ProjectionHead(64, 64, 32)(torch.randn(8, 64)).shape
    torch.Size([8, 32])
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__(
            nn.Linear(in_dim, hidden_dim, bias=False),  # the BatchNorm that follows brings the bias
            nn.BatchNorm1d(hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, out_dim),
        )
