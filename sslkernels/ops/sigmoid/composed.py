# SPDX-License-Identifier: Apache-2.0
"""Compose SigLIP's loss of meetings: the rows of x of each rank meet the rows of y of all ranks, which travel.

No rank gathers rows. Only at home do rows of x meet the rows of y that belong to them. The gradient of y's rows travels
behind them and comes home (sslkernels/ring.py), while those of x, scale and bias stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.dtypes import wide
from sslkernels.ops.sigmoid import schema as sigmoid
from sslkernels.ops.sigmoid.schema import Needs, Pairs
from sslkernels.ring import travel

# Gives the gradients of x, y, scale and bias, and the value or the sums of rows before them.
Meet = Callable[[Pairs], Sequence[Tensor]]


def loss(
    pairs: Pairs, share: float, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do as the op `loss` does, with the rows of y of all ranks."""
    dtype = wide(pairs.x.dtype)
    start = [pairs.x.new_zeros((), dtype=dtype), *_zeros(pairs, needs)]
    value, dx, dscale, dbias, dy = _meetings(
        pairs, start, needs.need_y, lambda met: sigmoid.loss(met, share, needs, backend), shard
    )
    return value, dx, dy, dscale, dbias


def forward(pairs: Pairs, shard: Shard, backend: str) -> Tensor:
    """Do as the op `forward` does, with the rows of y of all ranks."""
    if shard.ranks == 1:
        return sigmoid.forward(pairs, backend)
    start = [pairs.x.new_zeros(pairs.x.shape[0], dtype=wide(pairs.x.dtype))]
    return _meetings(pairs, start, False, lambda met: (sigmoid.forward(met, backend),), shard)[0]


def backward(
    pairs: Pairs, weights: Tensor, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Do as the op `backward` does, with the rows of y of all ranks."""
    if shard.ranks == 1:
        return sigmoid.backward(pairs, weights, needs, backend)
    start = _zeros(pairs, needs)

    def meet(met: Pairs) -> Sequence[Tensor]:
        return sigmoid.backward(met, weights, needs, backend)

    dx, dscale, dbias, dy = _meetings(pairs, start, needs.need_y, meet, shard)
    return dx, dy, dscale, dbias


def _zeros(pairs: Pairs, needs: Needs) -> list[Tensor]:
    """Make room for the gradients of x, scale and bias."""
    of = (pairs.x, needs.need_x), (pairs.scale, needs.need_scale), (pairs.bias, needs.need_bias)
    dtype = wide(pairs.x.dtype)
    return [x.new_zeros(x.shape if need else (0,), dtype=dtype) for x, need in of]


def _meetings(pairs: Pairs, totals: list[Tensor], need_y: bool, meet: Meet, shard: Shard) -> list[Tensor]:
    """Add up what `meet` gives for the block of each rank, and return the totals and the own block's gradient."""
    assert pairs.y is not None
    by_y = len(totals) - 2  # its place among what a meeting gives

    def visit(block: Sequence[Tensor], rank: int) -> Sequence[Tensor]:
        found = list(meet(pairs._replace(y=block[0], paired=rank == shard.rank)))
        dy = [found.pop(by_y)] if len(found) > len(totals) else []
        for total, some in zip(totals, found, strict=True):
            total += some
        return dy if need_y else []

    sums = [pairs.y.new_empty((0, pairs.y.shape[1]), dtype=wide(pairs.x.dtype))] if need_y else []
    with torch.autocast(pairs.x.device.type, enabled=False):
        home = travel([pairs.y], visit, sums, shard)
    return [*totals, *(home or [totals[0].new_empty(0)])]
