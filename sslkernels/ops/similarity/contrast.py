# SPDX-License-Identifier: Apache-2.0
"""Contrast rows that match with their negatives: the losses of `Anchors`, as one differentiable number or one by one.

A number is one node, whose gradient comes with it. Losses one by one are made of the primitives: how they will be
weighed is not known before the backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard, gather_rows
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.dtypes import stacked
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.repeats import distinct
from sslkernels.ops.rows import unit_rows
from sslkernels.ops.rows.schema import dot_backward, dot_forward
from sslkernels.ops.similarity import checked_logsumexp, composed, ring
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.anchors import beside, losses_of, weights_of
from sslkernels.ops.similarity.schema import SIMILARITY, Anchors, Needs, Pairs


def contrast(
    anchors: Anchors, reduction: str, shard: Shard, backend: str | None, margin: float = 0.0, travels: bool = False
) -> Tensor:
    """Reduce the anchors' losses to the "mean" or "sum" over all ranks, times the number of ranks; "none" leaves them.

    The mean over ranks of the returned values is then the whole batch's value, even if ranks hold different numbers of
    rows. Losses of "itself" are those of x and then of y; losses of "both" are means of both directions. Where keys
    would be gathered for "rows" or "both", they travel round a ring if ``travels``. ``margin`` is subtracted from the
    logit of every positive; views of "itself" have none.
    """
    x, y, negatives, scale, against, unit, frozen, dtype = anchors
    travels = travels and shard.ranks > 1 and against in ("rows", "both")
    if reduction == "none":
        return _one_by_one(anchors, shard, backend, margin, travels)
    chosen = SIMILARITY.choose(x.device, x.dtype, backend)
    asked = _Asked(against, unit, frozen, dtype, margin, reduction == "mean", shard, chosen, travels)
    return in_one_call(_computed, asked, x, y, negatives, scale)


class _Asked(NamedTuple):
    against: str
    unit: bool
    frozen: bool
    dtype: torch.dtype
    margin: float
    mean: bool
    shard: Shard
    backend: str
    travels: bool


def _computed(asked: _Asked, needs: tuple[bool, ...], x: Tensor, y: Tensor, negatives: Any, scale: Tensor) -> Any:
    anchors = Anchors(x, y, negatives, scale, asked.against, asked.unit, asked.frozen, asked.dtype)
    if asked.shard.ranks == 1 and not asked.margin:
        return similarity.contrast(anchors, asked.mean, Needs(*needs), asked.backend)
    way = ring.contrast if asked.travels else composed.contrast
    return way(anchors, asked.mean, Needs(*needs), asked.shard, asked.backend, asked.margin)


def _one_by_one(anchors: Anchors, shard: Shard, backend: str | None, margin: float, travels: bool) -> Tensor:
    x, y, negatives, scale, against, unit, _, _ = anchors
    other: Tensor | None = None  # log-sum-exps of the other direction
    if against == "itself":
        n, shard = x.shape[0], shard.with_views(2)
        rows = unit_rows(x, y, backend=backend) if unit else stacked(x, y)
        keys = None if shard.ranks == 1 else gather_rows(rows, shard)
        lse = checked_logsumexp(Pairs.of_views(rows, keys, scale, shard.start, 2), False, backend)
        return _losses(lse, rows, rows.roll(-n, 0), scale, backend)
    if unit:
        x, y = unit_rows(x, backend=backend), unit_rows(y, backend=backend)
    others = shard.start, 1  # all rows of y but the one at the same place
    if negatives is not None:
        lse = checked_logsumexp(Pairs(x, negatives, scale, None), False, backend)
    elif travels:
        lse, other = ring.log_sum_exps(x, y, scale, against == "both", shard, backend)
    elif against == "rows":
        lse = checked_logsumexp(Pairs.of_views(x, gather_rows(y, shard), scale, *others), False, backend)
    elif shard.ranks == 1:
        lse, other = checked_logsumexp(Pairs.of_views(x, y, scale, *others), True, backend)
    else:
        lse, other = (
            checked_logsumexp(Pairs.of_views(near, gather_rows(far, shard), scale, *others), False, backend)
            for near, far in ((x, y), (y, x))
        )
    losses = _losses(beside(lse, margin), x, y, scale, backend)
    return losses if other is None else (losses + _losses(beside(other, margin), x, y, scale, backend)) / 2


def _losses(lse: Tensor, x: Tensor, y: Tensor, scale: Tensor, backend: str | None) -> Tensor:
    """Compute the loss of every row of x, whose positive is the same row of y and whose negatives have that lse."""
    return _Losses.apply(*distinct(lse, x, y, scale), SIMILARITY.choose(x.device, x.dtype, backend))


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lse: Tensor, x: Tensor, y: Tensor, scale: Tensor, backend: str) -> Tensor:
        positive = dot_forward(x, y, 0, backend)
        logits = scale * positive
        ctx.save_for_backward(x, y, scale, positive, logits, lse)
        ctx.backend = backend
        return losses_of(lse, logits)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, scale, positive, logits, lse = ctx.saved_tensors
        need_x, need_y, need_scale = ctx.needs_input_grad[1:4]
        beside, weight = weights_of(lse, logits, grad)
        dx = dy = None
        if need_x or need_y:
            dx, dy = dot_backward(x, y, 0, scale * -weight, need_x, need_y, ctx.backend)
        return (
            beside,
            dx if need_x else None,
            dy if need_y else None,
            -torch.dot(weight, positive) if need_scale else None,
            None,
        )
