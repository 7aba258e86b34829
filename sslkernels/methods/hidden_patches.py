# SPDX-License-Identifier: Apache-2.0
"""Draw the patches that iBOT and its kin hide, so that no shape depends on what is drawn."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# A block has this many patches at least, and its height is at least this share of its width, or the reverse.
LEAST, ASPECT = 4, 0.3
# Blocks that are tried in an image. After ten, 98 % of what is to be hidden of 14 x 14 patches lies in blocks.
ROUNDS = 10

Shape = Literal["block", "random"]


class Hidden(NamedTuple):
    """The hidden patches of a batch of N images of L patches, H in all.

    ``mask`` is bool ``(N, L)``, and ``places`` ``(H,)`` counts among all ``N * L``. ``share`` ``(H,)``, float64, is 1
    over the number of patches that are hidden in the same image.
    """

    mask: Tensor
    places: Tensor
    share: Tensor


def hidden_patches(
    images: int,
    grid: tuple[int, int],
    ratio: tuple[float, float],
    probability: float,
    shape: Shape,
    device: torch.device,
) -> Hidden:
    """Hide patches in ``probability`` of the images, shares of them that lie evenly in ``ratio``, as DINOv2 does."""
    length, (low, high) = grid[0] * grid[1], ratio
    some = max(1, round(probability * images))
    counts = [max(1, round(length * (low + (high - low) * (place + 0.5) / some))) for place in range(some)]
    numbers, total = torch.tensor(counts, device=device), sum(counts)
    keys = torch.rand(some, length, device=device)
    if shape == "block":
        keys -= blocks(numbers, grid).flatten(1).float()  # their patches come first, and the rest is drawn one by one
    row = torch.arange(some, device=device).repeat_interleave(numbers, output_size=total)
    nth = torch.cat([torch.arange(count) for count in counts]).to(device)
    image = torch.randperm(images, device=device)[:some]
    places = image[row] * length + keys.argsort(1)[row, nth]
    mask = torch.zeros(images * length, dtype=torch.bool, device=device)
    mask[places] = True
    return Hidden(mask.view(images, length), places, 1 / numbers[row].double())


def blocks(counts: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cover at most ``counts (N,)`` patches of each of N grids with blocks; bool ``(N, height, width)``.

    As in BEiT, iBOT and DINOv2, a block's area is even between `LEAST` and what is left, the logarithm of height over
    width is even between those of `ASPECT` and its inverse, and a block that would cover too many is drawn again.
    """
    (height, width), device = grid, counts.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    covered = torch.zeros(len(counts), height, width, dtype=torch.bool, device=device)
    for _ in range(ROUNDS):
        area, aspect, down, right = torch.rand(4, len(counts), 1, device=device)
        left = counts[:, None] - covered.sum((1, 2))[:, None]
        area = LEAST + area * (left - LEAST).clamp_min(0)
        aspect = torch.exp((2 * aspect - 1) * math.log(ASPECT))
        high, wide = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        top, start = (down * (height - high + 1)).floor(), (right * (width - wide + 1)).floor()
        block = _within(rows, top, high)[:, :, None] & _within(columns, start, wide)[:, None]
        joined = covered | block
        fits = (joined.sum((1, 2)) <= counts) & (high < height)[:, 0] & (wide < width)[:, 0]
        covered = torch.where(fits[:, None, None], joined, covered)
    return covered


def _within(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    return (places >= start) & (places < start + length)
