# SPDX-License-Identifier: Apache-2.0
"""Exchange what the correlation family needs from other ranks; each rank holds n of N rows.

    statistics   shared means and variances gather 9*D doubles per rank; those of each rank's own sum D doubles
    features     the forward sums C, D*D floats, over ranks; the backward exchanges nothing
    samples      the forward gathers the rows of a and b, N*D floats each. A rank forms its n rows of the N x N
                 matrices, and da = K b needs no collective: it has the other ranks' rows. With shared statistics the
                 gradient sums the 2*D sums of da a over ranks.
A loss has the same value on every rank, and its gradient is computed in the forward. Moments by themselves are
differentiated in the backward, which first sums the gradients that ranks send.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows, summed


def all_summed(tensors: Sequence[Tensor], shard: Shard) -> list[Tensor]:
    """Sum each tensor over ranks, all in one collective."""
    flat = summed(torch.cat([x.reshape(-1) for x in tensors]), shard)
    return [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]


def merged(
    rows: int, mean: Tensor, squares: Tensor, products: Tensor, gap: Tensor, centre: bool, shard: Shard
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge the moments of each rank's rows into those of all rows, in fp64; every rank gets the same bits."""
    parts = (mean, squares, products, gap)
    if shard.ranks == 1:
        return parts
    mine = torch.cat([x.reshape(-1) for x in parts])[None]
    everyone = all_rows(mine, Shard(shard.group, (1,) * shard.ranks, shard.rank))
    means, squared, crossed, gaps = (
        part.view(shard.ranks, *x.shape)
        for part, x in zip(everyone.double().split([x.numel() for x in parts], 1), parts, strict=True)
    )
    counts = shard.counts(mean.device)
    means = means.sum(2)  # adds the rounded mean and the rest that rounding left
    middle = torch.einsum("r,rvd->vd", counts, means) / shard.total(rows)
    total = squared.sum(0)
    across = crossed.sum(0)
    if centre:
        away = means - middle
        total = total + torch.einsum("r,rvd->vd", counts, away.square())
        if products.numel():
            across = across + torch.einsum("r,rd->d", counts, away[:, 0] * away[:, 1])
    rounded = middle.to(mean.dtype)
    both = torch.stack([rounded, (middle - rounded).to(mean.dtype)], 1)
    # einsum may return any strides, but kernels read addresses.
    return both, total.contiguous(), across.contiguous(), gaps.sum(0)


def gathered_columns(
    z0: Tensor, z1: Tensor | None, mean: Tensor, scale: Tensor, shard: Shard
) -> tuple[Tensor, Tensor | None]:
    """Gather the columns of every rank, in the fp32 (fp64) that products on the side of samples read."""

    def gathered(z: Tensor, view: int) -> Tensor:
        rounded, left = mean[view]
        return all_rows((z.to(mean.dtype) - rounded - left) * scale[view], shard)

    return gathered(z0, 0), None if z1 is None else gathered(z1, 1)


def finished(
    rows: int, da: Sequence[Tensor], every: Sequence[Tensor | None], outer: Tensor, shard: Shard
) -> tuple[list[Tensor | None], Tensor]:
    """Return outer * da for each view, and the sums of da a over the ``rows`` of this rank, (V, D)."""
    mine = slice(shard.start, shard.start + rows)
    sums = torch.zeros_like(outer)
    for view, (part, columns) in enumerate(zip(da, every, strict=True)):
        if part.numel() and columns is not None:
            sums[view] = (part * columns[mine]).sum(0)
    return [part * outer[view] if part.numel() else None for view, part in enumerate(da)], sums
