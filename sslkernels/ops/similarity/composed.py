# SPDX-License-Identifier: Apache-2.0
"""Compose a contrastive loss and its gradient of the family's parts, on one rank or on many.

    anchor i:   log(e^p_i + sum_j e^s_ij) - p_i  =  softplus(lse_i - p_i),   j over its negatives
    gradient    w_i = share sigmoid(lse_i - p_i);  dS_ij = w_i e^(s_ij - lse_i),  dp_i = -w_i

Nothing cancels where p dominates, as it would in lse(all) - p. A margin of the positives, p_i - m, is lse_i + m.

With several ranks, a row is an anchor on its own rank and a key of every anchor of the group. Its gradient as a key
needs only the lse and the weights of the other ranks, 2N floats, where their rows are there already. Keys whose anchors
are not there send their gradients home by a reduce-scatter. All of it happens here, in the forward, and ranks agree on
what is wanted. A rank with n of N rows spends 2*n*N*D operations on the value and 4*n*N*D on each side's gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard, all_rows, summed_rows
from sslkernels.ops.rows.schema import unit_forward
from sslkernels.ops.similarity.anchors import beside
from sslkernels.ops.similarity.schema import (
    Anchors,
    Moved,
    Needs,
    Pairs,
    Positives,
    Sums,
    backward,
    finish,
    forward,
    weigh,
)


def contrast(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str, margin: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do as the op `contrast` does, with the rows of all ranks. The mean of the values over ranks is that of all."""
    if anchors.against == "itself":
        value, *gradients = _against_itself(anchors, mean, needs, shard, backend)
    else:
        value, *gradients = _against_keys(anchors, mean, needs, shard, backend, margin)
    return value, *(of if need else value.new_empty(0) for of, need in zip(gradients, needs, strict=True))


def _against_itself(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, scale = anchors.x.shape[0], anchors.scale
    x, norms = _both_views(anchors, backend)
    shard = shard.with_views(2)
    pairs = Pairs.of_views(x, None if shard.ranks == 1 else all_rows(x, shard), scale, shard.start, 2)
    lse, _, _ = forward(pairs, False, False, backend)
    value, weights, pull, pulled = weigh(
        Positives(x[:n], x[n:], scale), lse[:n], lse[n:], share_of(2 * n, mean, shard), backend
    )
    if not any(needs):
        return nothing_but(value)
    weights = weights.view(-1)
    moved, _, _ = backward(pairs, Sums(lse, weights, *everyone(lse, weights, shard)), True, False, False, backend)
    x_norms, y_norms = (None, None) if norms is None else (norms[:n], norms[n:])
    ends = Moved(x[:n], moved[:n], x_norms, x[n:], moved[n:], y_norms, scale)
    dx, dy, along = finish(ends, pull, needs.need_x, needs.need_y, needs.need_scale, backend)
    return value, dx, dy, value.new_empty(0), along - pulled if needs.need_scale else value.new_empty(0)


def _against_keys(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str, margin: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, y, queue, scale, both, n = (*anchors[:4], anchors.against == "both", anchors.x.shape[0])
    x_norms: Tensor | None = None
    y_norms: Tensor | None = None
    if anchors.unit:
        rows, norms = unit_forward(x, y, anchors.dtype, backend)
        (x, y), (x_norms, y_norms) = (rows[:n], rows[n:]), (norms[:n], norms[n:])
    keys = all_rows(y, shard) if queue is None else queue
    need_x = needs.need_x or needs.need_scale
    need_keys = needs.need_negatives if queue is not None else needs.need_y
    # Where no key can get a gradient, one flash pass sums the keys by their weights too.
    attend = not both and anchors.frozen and need_x
    there = both and shard.ranks > 1  # the columns of x are rows of y's matrix then
    forth = Pairs.of_views(x, keys, scale, shard.start, 1) if queue is None else Pairs(x, queue, scale, None)
    back = Pairs.of_views(y, all_rows(x, shard), scale, shard.start, 1) if there else None
    rows, cols, attended = forward(forth, both and not there, attend, backend)
    if back is not None:
        cols, _, _ = forward(back, False, False, backend)
    share = share_of(n, mean, shard) / (2 if both else 1)
    others = beside(rows, margin), beside(cols, margin) if both else None
    value, weights, pull, pulled = weigh(Positives(x, y, scale), *others, share, backend)
    if not any(needs):
        return nothing_but(value)
    moved_x: Tensor | None = None
    moved_y: Tensor | None = None
    if attend:
        moved_x = attended * weights[0][:, None]
    elif back is not None:
        everyones_rows, everyones_cols = everyone(rows, weights[0], shard), everyone(cols, weights[1], shard)
        if need_x:
            moved_x, _, _ = backward(forth, Sums(rows, weights[0], *everyones_cols), True, False, False, backend)
        if needs.need_y:
            moved_y, _, _ = backward(back, Sums(cols, weights[1], *everyones_rows), True, False, False, backend)
    elif need_x or need_keys:
        sums = Sums(rows, weights[0], cols, weights[1]) if both else Sums(rows, weights[0], None, None)
        moved_x, moved_y, _ = backward(forth, sums, need_x, need_keys, False, backend)
        if queue is None and need_keys:
            moved_y = summed_rows(moved_y, shard)
    dnegatives = value.new_empty(0)
    if queue is not None:
        if needs.need_negatives:
            ends = Moved(queue, moved_y, None, None, None, None, scale)
            dnegatives, _, _ = finish(ends, None, True, False, False, backend)
        moved_y = None
    ends = Moved(x, moved_x if need_x else None, x_norms, y, moved_y if needs.need_y else None, y_norms, scale)
    dx, dy, along = finish(ends, pull, needs.need_x, needs.need_y, needs.need_scale, backend)
    return value, dx, dy, dnegatives, along - pulled if needs.need_scale else value.new_empty(0)


def _both_views(anchors: Anchors, backend: str) -> tuple[Tensor, Tensor | None]:
    """Return the rows of x and then of y as they are multiplied, and the norms by which they were divided."""
    if anchors.unit:
        return unit_forward(anchors.x, anchors.y, anchors.dtype, backend)
    return torch.cat((anchors.x, anchors.y)), None


def share_of(anchors: int, mean: bool, shard: Shard) -> float:
    """Return the weight of each anchor's loss."""
    return shard.ranks / shard.total(anchors) if mean else float(shard.ranks)


def everyone(lse: Tensor, weights: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    if shard.ranks == 1:
        return lse, weights
    both = all_rows(torch.stack((lse, weights), 1), shard)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def nothing_but(value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    none = value.new_empty(0)
    return value, none, none, none, none
