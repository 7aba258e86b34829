# SPDX-License-Identifier: Apache-2.0
"""Exchanges the style of images, which is in the amplitudes of their spectra."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_number, check_range, check_rows
from sslkernels.data.views.images import IMAGES


class FourierStyle(nn.Module):
    """Give each image ``(N, C, H, W)`` in [0, 1] some of the amplitude spectrum of another one, and keep its phases.

    ``F' = ((1 - λ) |F(x)| + λ |F(y)|) exp(i arg F(x))`` at frequencies of up to ``band`` cycles a pixel along both
    axes, ``λ`` drawn evenly from 0 to ``strength`` and y from the other images of the batch. Phases hold where things
    are, amplitudes colour, contrast and texture. The mixing and ``strength=1`` are those of Xu et al. 2021 (arXiv
    2105.11120, amplitude mix), low frequencies alone those of FDA (Yang and Soatto 2020, arXiv 2004.05498), where more
    of the spectrum brings ghosts of y's edges. The result is clamped to [0, 1]. A single image stays as it is.

    Args:
        strength: largest share of the other image's amplitudes.
        band: largest frequency that changes, up to 0.5, which is all of them. At 0 only the mean changes.

    >>> import torch
    >>> from sslkernels.data import FourierStyle
    >>> FourierStyle()(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(self, strength: float = 1.0, band: float = 0.1) -> None:
        super().__init__()
        self.strength = check_number("FourierStyle", "strength", strength, least=0, most=1)
        self.band = check_number("FourierStyle", "band", band, least=0, most=0.5)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_rows("FourierStyle", "images", images, IMAGES, dims=4)
        count = len(images)
        share = self.strength * torch.rand(count, 1, 1, 1, device=images.device)
        if count < 2:
            return images
        step = 1 + torch.randint(count - 1, (count,), device=images.device)
        other = (torch.arange(count, device=images.device) + step) % count
        return restyled(images, other, share, self.band)


class BatchStyle(nn.Module):
    """Give all images ``(N, C, H, W)`` in [0, 1] of a batch the low amplitudes of one of them, and keep their phases.

    ``F' = |F(y)| exp(i arg F(x))`` in the square of low frequencies that covers a share r of the spectrum, with one y
    and one r for the batch. This is Batch Styles Standardization (Scalbert et al. 2023, arXiv 2303.06088): images of a
    batch cannot be told apart by their style, and where each view of a batch has a style of its own, nor do views of an
    image agree by it. r is drawn evenly from ``areas``, whose range is ours. The result is clamped to [0, 1].

    Args:
        areas: range of the share of the spectrum that changes, from nearly 0, which is the mean alone, to 1.

    >>> import torch
    >>> from sslkernels.data import BatchStyle
    >>> BatchStyle()(torch.rand(4, 3, 32, 32)).shape
    torch.Size([4, 3, 32, 32])
    """

    def __init__(self, areas: tuple[float, float] = (0.01, 0.1)) -> None:
        super().__init__()
        self.areas = check_range("BatchStyle", "areas", areas, most=1)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        check_rows("BatchStyle", "images", images, IMAGES, dims=4)
        low, high = self.areas
        area, chosen = torch.rand(2, 1, 1, device=images.device)
        if len(images) == 0:
            return images
        style = (chosen[0] * len(images)).long().expand(len(images))
        return restyled(images, style, torch.ones(1, device=images.device), (low + (high - low) * area).sqrt() / 2)


def restyled(images: Tensor, other: Tensor, share: Tensor, band: float | Tensor) -> Tensor:
    """Move the amplitudes of frequencies up to ``band`` by ``share`` to those of the images ``other (N,)``."""
    height, width = images.shape[2:]
    spectrum = torch.fft.rfft2(images.to(torch.promote_types(images.dtype, torch.float32)))  # takes no half
    vertical = torch.fft.fftfreq(height, device=images.device).abs()[:, None]
    horizontal = torch.fft.rfftfreq(width, device=images.device)
    low = (vertical <= band) & (horizontal <= band)
    amplitude = spectrum.abs()
    amplitude = torch.where(low, amplitude.lerp(amplitude[other], share.to(amplitude)), amplitude)
    styled = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=(height, width))
    return styled.clamp(0, 1).to(images)
