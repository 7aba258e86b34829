# SPDX-License-Identifier: Apache-2.0
"""A convolutional network for series of several channels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sslkernels.arguments import check_count, check_list, check_size


class Conv1dNet(nn.Module):
    """Map series ``(N, C, T)`` of any length to features ``(N, widths[-1])``, the mean over time.

    Args:
        in_channels: channels of a series.
        widths: channels of each layer; every layer halves the length.
        kernel: length of the filters, an odd number.

    >>> import torch
    >>> from sslkernels.models import Conv1dNet
    >>> Conv1dNet(6)(torch.randn(2, 6, 100)).shape
    torch.Size([2, 128])
    """

    def __init__(self, in_channels: int, widths: Sequence[int] = (32, 64, 128), kernel: int = 7) -> None:
        super().__init__()
        in_channels = check_count("Conv1dNet", "in_channels", in_channels, 9)
        kernel = check_size("Conv1dNet", "kernel", kernel)
        listed = check_list("Conv1dNet", "widths", widths, "a whole number for each layer, such as (32, 64, 128)")
        sizes = [check_count("Conv1dNet", f"widths[{place}]", width, kernel) for place, width in enumerate(listed)]
        if not sizes or kernel % 2 == 0:
            raise ValueError(
                f"Conv1dNet: widths is {tuple(sizes)} and kernel {kernel}; pass at least one width and an odd kernel."
            )
        self.feature_dim = sizes[-1]
        layers: list[nn.Module] = []
        for before, width in zip((in_channels, *sizes), sizes, strict=False):
            layers += [nn.Conv1d(before, width, kernel, 2, kernel // 2, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, series: Tensor) -> Tensor:
        return self.layers(series).mean(2)
