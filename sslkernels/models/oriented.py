# SPDX-License-Identifier: Apache-2.0
"""Fixed oriented filters: the first layer of a scattering transform."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sslkernels.arguments import check_count

# The wavelet's wave has this many pixels, and its bell a deviation of this many.
WAVE, DEVIATION = 4.0, 1.4
REACH = 3


class OrientedFilters(nn.Module):
    """Map images ``(N, C, H, W)`` to ``(N, C * (orientations + 1), H, W)``: the strength of edges in each direction.

    Each channel is convolved with complex Morlet wavelets, whose modulus hardly changes when the image moves a little,
    and with their bell, which keeps the grey values (one layer of scattering, Bruna and Mallat 2013). Nothing is
    learned.

    Args:
        in_channels: channels of the images.
        orientations: number of directions.

    >>> import torch
    >>> from sslkernels.models import OrientedFilters
    >>> OrientedFilters(1, orientations=8)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 9, 8, 8])
    """

    bank: Tensor

    def __init__(self, in_channels: int, orientations: int = 8) -> None:
        super().__init__()
        self.in_channels = check_count("OrientedFilters", "in_channels", in_channels, 1)
        self.orientations = check_count("OrientedFilters", "orientations", orientations, 2 * (2 * REACH + 1) ** 2, 8)
        self.channels = self.in_channels * (self.orientations + 1)
        self.register_buffer("bank", morlet_bank(self.orientations), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        count, channels, *size = images.shape
        grey = F.pad(images.reshape(count * channels, 1, *size), [REACH] * 4, mode="replicate")
        found = F.conv2d(grey, self.bank.to(images.dtype))
        real, imaginary, bell = found.split([self.orientations, self.orientations, 1], 1)
        strength = (real.square() + imaginary.square() + 1e-12).sqrt()
        return torch.cat([strength, bell], 1).reshape(count, self.channels, *size)


def morlet_bank(orientations: int) -> Tensor:
    """Make the wavelets' real parts, their imaginary parts, and the bell: ``(2 * orientations + 1, 1, S, S)``.

    The wavelets have a sum of zero, so that an even grey gives nothing, and the bell one of 1.
    """
    side = torch.arange(-REACH, REACH + 1, dtype=torch.float64)
    down, right = torch.meshgrid(side, side, indexing="ij")
    bell = torch.exp(-(down.square() + right.square()) / (2 * DEVIATION**2))
    bell = bell / bell.sum()
    angles = math.pi * torch.arange(orientations, dtype=torch.float64) / orientations
    phase = (2 * math.pi / WAVE) * (right * angles.cos()[:, None, None] + down * angles.sin()[:, None, None])
    wave = torch.polar(torch.ones_like(phase), phase)
    wavelets = bell * (wave - (bell * wave).sum((1, 2), keepdim=True))
    return torch.cat([wavelets.real, wavelets.imag, bell[None]])[:, None].float()
