# SPDX-License-Identifier: Apache-2.0
"""Measure how evenly rows are spread, and how close pairs are, as one differentiable number each.

    uniformity   log mean_(i != j) e^(-t |z_i - z_j|^2) = log sum_i e^L_i - log N(N - 1)
                 L_i = lse_(j != i)(2t <z_i, z_j> - t |z_j|^2) - t |z_i|^2
                 dz_i = 4t e^(L_i - log sum) (sum_j softmax_ij z_j - z_i)
    alignment    mean_i |x_i - y_i|^power

The first is one sweep that sums the other rows by their weights: 4*N^2*D operations with the gradient. Rows of 32 bits
and more are taken from their mean, which changes no distance: far from the origin L_i would be the difference of large
numbers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows
from sslkernels.ops.dtypes import wide, widened
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.similarity.schema import SIMILARITY, Pairs, forward


class _Spread(NamedTuple):
    t: float
    shard: Shard
    backend: str


def spread(z: Tensor, t: float, shard: Shard, backend: str | None) -> Tensor:
    """Compute the uniformity of the rows of all ranks, which all return."""
    asked = _Spread(t, shard, SIMILARITY.choose(z.device, z.dtype, backend))
    return in_one_call(_spread, asked, z, alike=shard)


def _spread(asked: _Spread, needs: tuple[bool, ...], z: Tensor) -> tuple[Any, ...]:
    t, shard, total = asked.t, asked.shard, asked.shard.total(len(z))
    keys = all_rows(z, shard)
    if z.dtype == wide(z.dtype):  # rows of 16 bits would round once more
        keys = keys - keys.mean(0)
    here = slice(shard.start, shard.start + len(z))
    squares, z = widened(keys).square().sum(1), keys[here]
    mine, own = squares[here], widened(z)
    scale = torch.full((), 2 * t, dtype=own.dtype, device=z.device)
    pairs = Pairs.of_views(z, keys, scale, shard.start, 1)._replace(bias=-t * squares)
    lse, _, near = forward(pairs, False, needs[0], asked.backend)
    lse = lse - t * mine
    whole = all_rows(lse, shard).logsumexp(0)
    value = whole - (math.log(total) + math.log(total - 1))
    if not needs[0]:
        return value, None
    return value, (4 * t * torch.exp(lse - whole))[:, None] * (near - own)


class _Distances(NamedTuple):
    power: float
    mean: bool
    shard: Shard


def distances(x: Tensor, y: Tensor, power: float, reduction: str, shard: Shard, backend: str | None) -> Tensor:
    """Reduce the distances of matching rows, to that power."""
    SIMILARITY.choose(x.device, x.dtype, backend)
    if reduction == "none":
        length = _lengths(widened(x) - widened(y))
        return length.masked_fill(length == 0, 1).pow(power).masked_fill(length == 0, 0)
    return in_one_call(_distances, _Distances(power, reduction == "mean", shard), x, y)


def _distances(asked: _Distances, needs: tuple[bool, ...], x: Tensor, y: Tensor) -> tuple[Any, ...]:
    apart = widened(x) - widened(y)
    length = _lengths(apart)
    share = asked.shard.ranks / asked.shard.total(len(x)) if asked.mean else float(asked.shard.ranks)
    value = (share * length.pow(asked.power)).sum()
    if not any(needs):
        return value, None, None
    # A pair without distance has no direction, and no gradient. A power of the length by 2 less may overflow.
    slope = torch.where(length > 0, share * asked.power * length.pow(asked.power - 1), 0.0)
    dx = slope[:, None] * (apart / torch.where(length > 0, length, 1)[:, None])
    return value, dx if needs[0] else None, -dx if needs[1] else None


def _lengths(rows: Tensor) -> Tensor:
    """Measure rows. No square leaves the range of the dtype, in which the sum of squares of large rows may not be."""
    largest = rows.detach().abs().amax(1)
    largest = torch.where((largest > 0) & largest.isfinite(), largest, 1)
    return torch.linalg.vector_norm(rows / largest[:, None], dim=1) * largest
