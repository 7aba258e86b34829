# SPDX-License-Identifier: Apache-2.0
"""Compose a contrastive loss and its gradient of the family's parts, on one rank or on many.

    anchor i:   log(e^p_i + sum_j e^s_ij) - p_i  =  softplus(lse_i - p_i),   j over its negatives
    gradient    w_i = share sigmoid(lse_i - p_i);  dS_ij = w_i e^(s_ij - lse_i),  dp_i = -w_i

Nothing cancels where p dominates, as it would in lse(all) - p.

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
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do as the op `contrast` does, with the rows of all ranks. The mean of the values over ranks is that of all."""
    way = _against_itself if anchors.against == "itself" else _against_keys
    value, *gradients = way(anchors, mean, needs, shard, backend)
    return value, *(of if need else value.new_empty(0) for of, need in zip(gradients, needs, strict=True))


def _against_itself(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, scale = anchors.x.shape[0], anchors.scale
    x, norms = _rows(anchors, anchors.x, anchors.y, backend)
    shard = shard.with_views(2)
    own = own_indices(x, shard)
    left_out = torch.stack((own, own.roll(-n)), 1)
    pairs = Pairs(x, None if shard.ranks == 1 else all_rows(x, shard), scale, left_out)
    lse, _, _ = forward(pairs, False, False, backend)
    value, weights, _, pull, pulled = weigh(Positives(x, x, n, scale), lse, None, _share(2 * n, mean, shard), backend)
    if not any(needs):
        return _nothing_but(value)
    moved, _ = backward(pairs, Sums(lse, weights, *_everyone(lse, weights, shard)), True, False, backend)
    pull = pull + pull.roll(n)  # a row is pulled as an anchor, and as the partner of its partner
    (first, along0), (second, along1) = (
        finish(
            Moved(x[here], moved[here], scale, None if norms is None else norms[here]), x[there], 0, pull[here], backend
        )
        for here, there in ((slice(0, n), slice(n, 2 * n)), (slice(n, 2 * n), slice(0, n)))
    )
    # A pair is in two sums, as a row and as a column, be they on one rank or on two; each gives half.
    return value, first, second, value.new_empty(0), (along0 + along1) / 2 - pulled


def _against_keys(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    scale, both, queue = anchors.scale, anchors.against == "both", anchors.negatives
    x, x_norms = _rows(anchors, anchors.x, None, backend)
    y, y_norms = _rows(anchors, anchors.y, None, backend)
    left_out = None if queue is not None else own_indices(x, shard)[:, None]
    keys = all_rows(y, shard) if queue is None else queue
    need_x = needs.need_x or needs.need_scale
    need_keys = needs.need_negatives if queue is not None else needs.need_y
    # Where no key can get a gradient, one flash pass sums the keys by their weights too.
    attend = not both and anchors.frozen and any(needs)
    there = both and shard.ranks > 1  # the columns of x are rows of y's matrix then
    forth = Pairs(x, keys, scale, left_out)
    back = Pairs(y, all_rows(x, shard), scale, left_out) if there else None
    rows, cols, attended = forward(forth, both and not there, attend, backend)
    if back is not None:
        cols, _, _ = forward(back, False, False, backend)
    value, row_weights, col_weights, pull, pulled = weigh(
        Positives(x, y, 0, scale), rows, cols if both else None, _share(x.shape[0], mean, shard), backend
    )
    if not any(needs):
        return _nothing_but(value)
    moved_y = dx = dy = dnegatives = along = value.new_empty(0)
    if attend:
        moved_x = attended * row_weights[:, None]
    elif back is not None:
        everyones_rows, everyones_cols = _everyone(rows, row_weights, shard), _everyone(cols, col_weights, shard)
        moved_x, _ = backward(forth, Sums(rows, row_weights, *everyones_cols), need_x, False, backend)
        moved_y, _ = backward(back, Sums(cols, col_weights, *everyones_rows), needs.need_y, False, backend)
    else:
        sums = Sums(rows, row_weights, cols, col_weights) if both else Sums(rows, row_weights, None, None)
        moved_x, moved_y = backward(forth, sums, need_x, need_keys, backend)
        if queue is None and need_keys:
            moved_y = summed_rows(moved_y, shard)
    if need_x:
        dx, along = finish(Moved(x, moved_x, scale, x_norms), y, 0, pull, backend)
    if needs.need_y:
        mine = moved_y if queue is None else torch.zeros_like(y, dtype=value.dtype)
        dy, _ = finish(Moved(y, mine, scale, y_norms), x, 0, pull, backend)
    if queue is not None and needs.need_negatives:
        dnegatives, _ = finish(Moved(queue, moved_y, scale, None), None, 0, None, backend)
    return value, dx, dy, dnegatives, along - pulled if needs.need_scale else along


def own_indices(x: Tensor, shard: Shard) -> Tensor:
    """Return the places that the rows of x have among those of all ranks."""
    return torch.arange(shard.start, shard.start + x.shape[0], device=x.device)


def _rows(anchors: Anchors, first: Tensor, second: Tensor | None, backend: str) -> tuple[Tensor, Tensor | None]:
    """Return rows as they are multiplied, and the norms by which they were divided."""
    if anchors.unit:
        return unit_forward(first, second, anchors.dtype, backend)
    return first if second is None else torch.cat((first, second)), None


def _share(anchors: int, mean: bool, shard: Shard) -> float:
    """Return the weight of each anchor's loss."""
    return shard.ranks / shard.total(anchors) if mean else float(shard.ranks)


def _everyone(lse: Tensor, weights: Tensor, shard: Shard) -> tuple[Tensor, Tensor]:
    if shard.ranks == 1:
        return lse, weights
    both = all_rows(torch.stack((lse, weights), 1), shard)
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _nothing_but(value: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    none = value.new_empty(0)
    return value, none, none, none, none
