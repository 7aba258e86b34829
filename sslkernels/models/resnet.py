# SPDX-License-Identifier: Apache-2.0
"""A residual network (He et al. 2016) for small images: a 3x3 stem, no pooling before the last layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count, check_fits, check_list, check_size


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``(N, C, H, W)`` to ``(N, C', H / stride, W / stride)``."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm0 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm1(self.conv1(F.relu(self.norm0(self.conv0(x)), inplace=True)))
        return F.relu(residual.add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """Map images ``(N, C, H, W)`` of any size to features ``(N, widths[-1])``.

    Args:
        in_channels: channels of an image.
        widths: channels of each stage; every stage but the first halves height and width.
        blocks: residual blocks of each stage, as many numbers as ``widths``.

    >>> import torch
    >>> from sslkernels.models import ResNet
    >>> ResNet(3, widths=(16, 32), blocks=(1, 1))(torch.randn(2, 3, 32, 32)).shape
    torch.Size([2, 32])
    """

    def __init__(self, in_channels: int, widths: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        in_channels = check_count("ResNet", "in_channels", in_channels, 9)
        widths, blocks = _numbers("widths", widths), _numbers("blocks", blocks)
        if not widths or len(widths) != len(blocks):
            raise ValueError(
                f"ResNet: widths is {tuple(widths)} and blocks {tuple(blocks)}; pass one of each per stage, "
                "such as widths=(32, 64, 128), blocks=(1, 1, 1)."
            )
        for place, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            check_fits("ResNet", f"widths[{place}]", width, 9 * width**2)
            check_fits("ResNet", f"blocks[{place}]", count, count * 18 * width**2)
        self.feature_dim = widths[-1]
        self.widths, self.blocks = tuple(widths), tuple(blocks)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        channels = widths[0]
        stages = []
        for index, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, width, stride))
                channels = width
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.feature_grid(images).mean((2, 3))

    def feature_grid(self, images: Tensor) -> Tensor:
        """Compute the features of each place, before they are averaged: ``(N, feature_dim, H', W')``."""
        return self.stages(self.stem(images))

    def stage_grids(self, images: Tensor) -> list[Tensor]:
        """Compute the features of each place behind each stage, ``(N, widths[i], H', W')``; the last are the grid."""
        x, grids, blocks = self.stem(images), [], iter(self.stages)
        for depth in self.blocks:
            for _ in range(depth):
                x = next(blocks)(x)
            grids.append(x)
        return grids


def _numbers(name: str, numbers: Sequence[int]) -> list[int]:
    listed = check_list("ResNet", name, numbers, "a whole number for each stage, such as (32, 64, 128)")
    return [check_size("ResNet", f"{name}[{place}]", number) for place, number in enumerate(listed)]


def resnet_small(in_channels: int = 1) -> ResNet:
    """Build three stages of one block: 0.3 M parameters, 128 features, enough for 8x8 digits, quick on two CPU cores.

    >>> import torch
    >>> from sslkernels.models import resnet_small
    >>> resnet_small()(torch.randn(2, 1, 8, 8)).shape
    torch.Size([2, 128])
    """
    return ResNet(check_count("resnet_small", "in_channels", in_channels, 9), widths=(32, 64, 128), blocks=(1, 1, 1))
