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


class SpectralBranches(nn.Module):
    """Map log-mel spectrograms ``(N, 1, mels, frames)`` to features of two branches, half of them each.

    The first half is that of a `SpectrogramNet`. The second is a perceptron's, of the spectrum: the mean of each band
    over time. What a machine does at one moment is in the first, its steady tones in the second, as in the two branches
    of Wilkinghoff 2024 (arXiv 2312.09578), whose spectrum is that of the waveform and much finer.

    Args:
        mels: number of bands.
        widths: channels of each layer of the first branch.

    >>> import torch
    >>> from sslkernels.models.spectrogram import SpectralBranches
    >>> SpectralBranches(64)(torch.randn(2, 1, 64, 96)).shape
    torch.Size([2, 256])
    """

    def __init__(self, mels: int, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        self.spectrogram = SpectrogramNet(widths)
        width = self.spectrogram.feature_dim
        self.feature_dim = 2 * width
        mels = check_count("SpectralBranches", "mels", mels, width)
        self.spectrum = nn.Sequential(
            nn.Linear(mels, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, spectrograms: Tensor) -> Tensor:
        return torch.cat([self.spectrogram(spectrograms), self.spectrum(spectrograms.mean(3)[:, 0])], 1)
