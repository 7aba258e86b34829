# SPDX-License-Identifier: Apache-2.0
"""What the correlation family exchanges between ranks, which hold n of N rows each.

    statistics   9*D doubles per rank gathered where means and variances are shared, D summed where they are each rank's
    features     C, D*D floats, summed over ranks in the forward; nothing in the backward
    samples      rows of a and b, N*D floats each, gathered in the forward. A rank forms
                 its n rows of the N x N matrices, and its da = K b needs no collective: rows of others are there.
Where the backward communicates it sums the gradients that each rank's loss sends (a few D floats), so that ranks whose
losses have unlike weights get the gradient of what they weigh.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows, summed


def all_summed(tensors: Sequence[Tensor], shard: Shard) -> list[Tensor]:
    """Each summed over ranks, in one collective."""
    flat = summed(torch.cat([x.reshape(-1) for x in tensors]), shard)
    return [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in tensors]), tensors, strict=True)]


def merged(
    rows: int, mean: Tensor, squares: Tensor, products: Tensor, gap: Tensor, centre: bool, shard: Shard
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The moments of all rows from those of each rank's, in double precision: every rank has the same bits of them."""
    parts = (mean, squares, products, gap)
    if shard.ranks == 1:
        return parts
    mine = torch.cat([x.reshape(-1) for x in parts])[None]
    everyone = all_rows(mine, Shard(shard.group, (1,) * shard.ranks, shard.rank))
    means, squared, crossed, gaps = (
        part.view(shard.ranks, *x.shape)
        for part, x in zip(everyone.double().split([x.numel() for x in parts], 1), parts, strict=True)
    )
    counts = torch.tensor(shard.sizes, dtype=torch.float64, device=mean.device)
    means = means.sum(2)  # rounded, and what rounding left
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
    # einsum may leave any strides; kernels read addresses
    return both, total.contiguous(), across.contiguous(), gaps.sum(0)


def gathered_columns(
    z0: Tensor, z1: Tensor | None, mean: Tensor, scale: Tensor, shard: Shard
) -> tuple[Tensor, Tensor | None]:
    """Columns of every rank, in fp32 (fp64) as the products on the side of samples take them."""

    def gathered(z: Tensor, view: int) -> Tensor:
        rounded, left = mean[view]
        return all_rows((z.to(mean.dtype) - rounded - left) * scale[view], shard)

    return gathered(z0, 0), None if z1 is None else gathered(z1, 1)


def finished(
    rows: int, da: Sequence[Tensor], every: Sequence[Tensor | None], outer: Tensor, shard: Shard
) -> tuple[list[Tensor | None], Tensor]:
    """outer * da for each view, and the sums of da a over the ``rows`` of this rank, (V, D)."""
    mine = slice(shard.start, shard.start + rows)
    sums = torch.zeros_like(outer)
    for view, (part, columns) in enumerate(zip(da, every, strict=True)):
        if part.numel() and columns is not None:
            sums[view] = (part * columns[mine]).sum(0)
    return [part * outer[view] if part.numel() else None for view, part in enumerate(da)], sums
