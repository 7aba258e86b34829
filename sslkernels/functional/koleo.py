# SPDX-License-Identifier: Apache-2.0
"""Spread rows on the sphere by the distance of each to its nearest neighbour (KoLeo).

    u_i = x_i / max(|x_i|, eps)              d_i = |u_i - u_n(i) + eps|
    loss = -mean_i log(d_i + eps)            n(i) = the nearest row but i itself

Row i is moved by its own term, and by those of all rows whose nearest it is. Ranks exchange rows and the indices n, of
which each computes its own rows' gradient: no gradient travels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.arguments import check_number, check_rows, check_size
from sslkernels.distributed import GroupLike, Shard, all_rows, shard_of
from sslkernels.ops.dtypes import wide
from sslkernels.ops.neighbours.schema import NEIGHBOURS, Search, topk
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.rows.schema import ROWS, unit_forward
from sslkernels.ops.tokens import TOKENS
from sslkernels.ops.tokens.schema import collect

UNIT_EPS = 1e-12  # of the norms in `unit_forward`


def koleo(
    x: Tensor,
    *,
    eps: float = 1e-8,
    group_size: int | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Push each row away from its nearest neighbour (KoLeo of Sablayrolles et al. 2019, as DINOv2 has it).

    ``-mean_i log(|u_i - u_n(i) + eps| + eps)`` with ``u_i = x_i / max(|x_i|, eps)``, where n(i) is the nearest row but
    i itself; of equal ones it is the first.

    Args:
        x: rows ``(N, D)``, at least two in all. All dtypes are computed in float32, float64 in itself.
        eps: a positive number, which keeps the logarithm finite.
        group_size: rows find neighbours among so many consecutive ones, of which there are several groups (DINOv3
            takes 16). By default all rows are one group.
        group: ranks whose rows are neighbours too, as if they were concatenated in rank order; the mean over ranks of
            the returned loss is the loss of them all. ``None`` never communicates; ``"world"`` is every rank. Ranks may
            hold different N, and must multiply the loss by the same number. Where ``group_size`` divides the N of every
            rank, no row travels.
        backend: see `logsumexp_similarity`.

    Returns:
        0-dim float32 (float64 for float64 rows). Gradients reach both rows of a pair. Rows that are equal have a finite
        loss, and their term no gradient: nothing says where to push them.

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, one row alone, a group_size that does not divide the
            number of rows.

    Cost: ``2*N*M*D`` operations for M rows of a group, with or without the gradient; ``O(N*D)`` memory, and no matrix
    of pairs. Indices are found without atomics: the same inputs give the same bits.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> SF.koleo(torch.eye(3))  # minus the logarithm of the square root of 2
    tensor(-0.3466)
    """
    eps = check_number("koleo", "eps", eps, above=0.0)
    if group_size is not None:
        group_size = check_size("koleo", "group_size", group_size, least=2)
    return spread_neighbours("koleo", "x", x, eps, group_size=group_size, group=group, backend=backend)


class _Koleo(NamedTuple):
    eps: float
    power: float  # of the distance's norm; DINOv2 has 2
    group_size: int | None
    shard: Shard
    unit: str  # backends
    search: str
    collect: str


def spread_neighbours(
    function: str,
    name: str,
    x: Tensor,
    eps: float,
    power: float = 2.0,
    group_size: int | None = None,
    group: GroupLike = None,
    backend: str | None = None,
) -> Tensor:
    """Compute `koleo` for a caller who calls the rows ``name``, with any norm of the distances."""
    check_rows(function, name, x)
    shard = shard_of(group, function, x, eps=eps, power=power, group_size=group_size)
    rows = shard.total(x.shape[0])
    if rows < 2:
        raise ValueError(f"{function}: {name} has {'one row' if rows else 'no row'} in all; pass at least two rows.")
    if group_size is not None and rows % group_size:
        raise ValueError(
            f"{function}: group_size is {group_size} and there are {rows} rows; pass a size that divides their number."
        )
    dtype = wide(x.dtype)
    backends = (family.choose(x.device, dtype, backend) for family in (ROWS, NEIGHBOURS, TOKENS))
    return in_one_call(_koleo, _Koleo(eps, power, group_size, shard, *backends), x)


def _koleo(asked: _Koleo, needs: tuple[bool, ...], x: Tensor) -> tuple[Any, ...]:
    shard, eps, own = asked.shard, asked.eps, slice(asked.shard.start, asked.shard.start + x.shape[0])
    share = shard.ranks / shard.total(x.shape[0])
    if asked.group_size is not None and all(rows % asked.group_size == 0 for rows in shard.sizes):
        shard, own = Shard.alone, slice(0, x.shape[0])
    every, norms = unit_forward(all_rows(x, shard), None, wide(x.dtype), asked.unit)
    divisors = norms.clamp_min(eps)
    every.mul_((norms.clamp_min(UNIT_EPS) / divisors)[:, None])  # the kernel divides by 1e-12 or more
    nearest, unit = _nearest(every, own, asked, alone=shard.ranks == 1), every[own]
    apart, length, equal = _distances(unit, every, nearest, asked)
    value = -share * (length + eps).log().sum()
    if not needs[0]:
        return value, None

    nearest = all_rows(nearest, shard)
    if shard.ranks > 1:  # rows of other ranks may have theirs here
        apart, length, equal = _distances(every, every, nearest, asked)
    slope = (-share / (length + eps)).masked_fill_(equal, 0)
    if asked.power == 2:
        pushed = apart.mul_((slope / length)[:, None])
    else:
        steep = apart.abs().div(length[:, None]).pow(asked.power - 1).masked_fill(apart == 0, 0)
        pushed = slope[:, None] * steep * apart.sign()
    of_others = collect(pushed[None], nearest[None, None], len(every), None, 0, True, every.dtype, asked.collect)[0]
    grad = pushed.sub_(of_others)[own]
    along = (grad * unit).sum(1).masked_fill_(norms[own] <= eps, 0)
    return value, grad.sub_(along[:, None] * unit).div_(divisors[own, None])


def _distances(rows: Tensor, every: Tensor, nearest: Tensor, asked: _Koleo) -> tuple[Tensor, Tensor, Tensor]:
    """Return the differences from the nearest rows and eps, their norms, and which differences are 0."""
    apart = rows - every.index_select(0, nearest)
    equal = apart.abs().amax(1) == 0  # on a CPU `(rows == others).all(1)` takes seven times as long
    apart.add_(asked.eps)
    return apart, torch.linalg.vector_norm(apart, asked.power, dim=1), equal


def _nearest(every: Tensor, own: slice, asked: _Koleo, alone: bool) -> Tensor:
    """Find the nearest row of each of one's own, ``(N,)``. By distances, because products of near rows all round to 1.

    A row that has NaN has no nearest one, and gets the first; its loss is NaN all the same.
    """
    if asked.group_size is not None:
        size = asked.group_size  # of the groups in which there are rows of one's own
        first, last = own.start // size * size, -(-own.stop // size) * size
        groups = every[first:last].view(-1, size, every.shape[1])
        _, found = topk(Search(groups, None, None, None), 1, "euclidean", asked.search)
        starts = torch.arange(first, last, size, device=every.device)[:, None]
        return (found[:, :, 0].clamp_min(0) + starts).flatten()[own.start - first : own.stop - first]
    if alone:
        search = Search(every[None], None, None, None)
    else:
        itself = torch.arange(own.start, own.stop, device=every.device)
        search = Search(every[own][None], every[None], None, itself[None, :, None])
    _, found = topk(search, 1, "euclidean", asked.search)
    return found.flatten().clamp_min(0)
