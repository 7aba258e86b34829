# SPDX-License-Identifier: Apache-2.0
"""Rounds the numbers of a sample to a few random values; any modality can take it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkernels.arguments import check_floating, check_size, check_tensor, shape_of

KINDS = "(N, C, ...), or the rows (N, D) of a table"


class RandomizedQuantization(nn.Module):
    """Round the numbers of each sample and channel to one random value for each of a few random bins.

    ``v = l_b + u_b (r_b - l_b)`` for every number of bin ``b = [l_b, r_b)``. The edges between bins are drawn evenly
    from the channel's least to its largest number and sorted, and ``u_b`` evenly from [0, 1), once a bin: the random
    edges and random values of Randomized Quantization (Wu et al. 2022, arXiv 2212.08663).

    Args:
        regions: number of bins.

    ``forward(batch)`` takes images ``(N, C, H, W)``, series ``(N, C, T)`` or spectrograms ``(N, 1, mels, frames)``, and
    rows of tables ``(N, D)``. All columns of a row are one channel, since they were standardised to one scale.

    >>> import torch
    >>> from sslkernels.data import RandomizedQuantization, Views
    >>> first, second = Views(RandomizedQuantization(regions=4))(torch.rand(2, 3, 32, 32))
    >>> first.shape, [len(channel.unique()) for channel in first[0]]
    (torch.Size([2, 3, 32, 32]), [4, 4, 4])
    """

    def __init__(self, regions: int = 8) -> None:
        super().__init__()
        self.regions = check_size("RandomizedQuantization", "regions", regions)

    @torch.no_grad()
    def forward(self, batch: Tensor) -> Tensor:
        check_floating("RandomizedQuantization", "batch", check_tensor("RandomizedQuantization", "batch", batch, KINDS))
        if batch.dim() < 2 or 0 in batch.shape[1:]:
            raise ValueError(f"RandomizedQuantization: batch has shape {shape_of(batch)}; pass {KINDS}.")
        channels = batch[:, None] if batch.dim() == 2 else batch.flatten(2)
        least, largest = channels.amin(2, keepdim=True), channels.amax(2, keepdim=True)
        draws = torch.rand(*channels.shape[:2], 2 * self.regions - 1, device=batch.device, dtype=batch.dtype)
        shares, heights = draws.split([self.regions - 1, self.regions], 2)
        edges = least + shares.sort(2).values * (largest - least)
        left, right = torch.cat([least, edges], 2), torch.cat([edges, largest], 2)
        values = left + heights * (right - left)
        bins = torch.searchsorted(edges, channels.contiguous(), right=True)
        return values.gather(2, bins).view_as(batch)
