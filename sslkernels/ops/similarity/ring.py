# SPDX-License-Identifier: Apache-2.0
"""Contrast rows with those of all ranks and gather none: rows visit each rank one block after another.

On each rank, row i of x matches row i of y, and all other rows of y are its negatives. Blocks take two trips round the
ring (sslkernels/ring.py), since the gradient of a pair needs log-sum-exps over all pairs:

    sums        rows of y travel; each visit adds to the sums of the own rows of x, which stay, and to those of the
                visitor, which come home
    gradients   a side whose gradient is wanted stays, and the other one travels with its log-sum-exps and their
                weights; nothing comes home

A rank with n of N rows spends 2*n*N*D operations on the first trip, and on the second 4*n*N*D for each side that stays.
Log-sum-exps are joined in float64, because many ranks would round many times.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.repeats import distinct
from sslkernels.ops.rows.schema import unit_forward
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.anchors import beside
from sslkernels.ops.similarity.composed import nothing_but, share_of
from sslkernels.ops.similarity.schema import SIMILARITY, Anchors, Moved, Needs, Pairs, Positives, Sums
from sslkernels.ring import travel


def contrast(
    anchors: Anchors, mean: bool, needs: Needs, shard: Shard, backend: str, margin: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Do as `composed.contrast` does for anchors against "rows" or "both"."""
    x, y, scale, both, n = anchors.x, anchors.y, anchors.scale, anchors.against == "both", len(anchors.x)
    x_norms: Tensor | None = None
    y_norms: Tensor | None = None
    if anchors.unit:
        units, norms = unit_forward(x, y, anchors.dtype, backend)
        (x, y), (x_norms, y_norms) = (units[:n], units[n:]), (norms[:n], norms[n:])
    need_x, need_y = _stay(needs.need_x, needs.need_y, needs.need_scale)
    attend = need_x and not need_y and not both  # then the first trip sums keys by their weights too
    pairs = _matching(x, y, scale)
    rows, cols, attended = forward(pairs, both, attend, shard, backend)
    share = share_of(n, mean, shard) / (2 if both else 1)
    others = beside(rows, margin), beside(cols, margin) if both else None
    value, weights, pull, pulled = similarity.weigh(Positives(x, y, scale), *others, share, backend)
    if not any(needs):
        return nothing_but(value)
    moved_x: Tensor | None = None
    moved_y: Tensor | None = None
    if attend:
        moved_x = attended * weights[0][:, None]
    else:
        sums = Sums(rows, weights[0], *((cols, weights[1]) if both else (None, None)))
        moved_x, moved_y = backward(pairs, sums, need_x, need_y, shard, backend)
    ends = Moved(x, moved_x, x_norms, y, moved_y, y_norms, scale)
    dx, dy, along = similarity.finish(ends, pull, needs.need_x, needs.need_y, needs.need_scale, backend)
    none = value.new_empty(0)
    return value, dx, dy, none, along - pulled if needs.need_scale else none


def log_sum_exps(
    x: Tensor, y: Tensor, scale: Tensor, columns: bool, shard: Shard, backend: str | None
) -> tuple[Tensor, Tensor | None]:
    """Return log-sum-exps (N,) of the negatives of each row of x and, if ``columns``, of y; with gradients."""
    chosen = SIMILARITY.choose(x.device, x.dtype, backend)
    return _LogSumExps.apply(*distinct(x, y, scale), columns, shard, chosen)


def forward(pairs: Pairs, columns: bool, attend: bool, shard: Shard, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Do as the op `forward` does for `_matching` rows, with those of all ranks."""
    x, y, scale = pairs[:3]
    assert y is not None
    rows = scale.new_full((len(x),), -torch.inf, dtype=torch.float64)
    attended = scale.new_zeros(x.shape if attend else 0)

    def visit(block: Sequence[Tensor], rank: int) -> Sequence[Tensor]:
        nonlocal rows, attended
        met = pairs if rank == shard.rank else Pairs(x, block[0], scale, None)
        lse, cols, moved = similarity.forward(met, columns, attend, backend)
        before, rows = rows, torch.logaddexp(rows, lse.double())
        if attend:
            attended = attended * _part(before, rows, scale) + moved * _part(lse, rows, scale)
        return [cols.double()] if columns else []

    home = travel([y], visit, [rows[:0]] if columns else [], shard, torch.logaddexp)
    return rows.to(scale.dtype), (home[0] if columns else rows[:0]).to(scale.dtype), attended


def backward(
    pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, shard: Shard, backend: str
) -> tuple[Tensor | None, Tensor | None]:
    """Do as the op `backward` does for `_matching` rows, with those of all ranks; None stands for what is not asked."""
    x, y, scale = pairs[:3]
    assert y is not None
    travelling_y = _packed(y, sums.cols, sums.cols_grad) if need_x else []
    travelling_x = _packed(x, sums.rows, sums.rows_grad) if need_y else []
    moved_x, moved_y = x, y  # until the own block, which comes first, has met its rows

    def visit(block: Sequence[Tensor], rank: int) -> Sequence[Tensor]:
        nonlocal moved_x, moved_y
        if rank == shard.rank:
            moved_x, moved_y, _ = similarity.backward(pairs, sums, need_x, need_y, False, backend)
            return []
        if need_x:
            keys, cols, weights = _unpacked(block[: len(travelling_y)])
            met = Sums(sums.rows, sums.rows_grad, cols, weights)
            moved_x += similarity.backward(Pairs(x, keys, scale, None), met, True, False, False, backend)[0]
        if need_y:
            anchors, rows, weights = _unpacked(block[len(travelling_y) :])
            met = Sums(rows, weights, sums.cols, sums.cols_grad)
            moved_y += similarity.backward(Pairs(anchors, y, scale, None), met, False, True, False, backend)[1]
        return []

    travel([*travelling_y, *travelling_x], visit, [], shard)
    return moved_x if need_x else None, moved_y if need_y else None


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, columns: bool, shard: Shard, backend: str
    ) -> tuple[Tensor, Tensor | None]:
        rows, cols, _ = forward(_matching(x, y, scale), columns, False, shard, backend)
        given = cols if columns else None
        ctx.save_for_backward(x, y, scale, rows, given)
        ctx.shard, ctx.backend = shard, backend
        return rows, given

    @staticmethod
    @first_derivative
    def backward(ctx: Any, rows_grad: Tensor, cols_grad: Tensor | None) -> Any:
        x, y, scale, rows, cols = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        sums = Sums(rows, rows_grad.contiguous(), cols, None if cols_grad is None else cols_grad.contiguous())
        moved_x, moved_y = backward(_matching(x, y, scale), sums, *_stay(*needs), ctx.shard, ctx.backend)
        ends = Moved(x, moved_x, None, y, moved_y, None, scale)
        dx, dy, along = similarity.finish(ends, None, *needs, ctx.backend)
        found = dx.to(x.dtype), dy.to(y.dtype), along
        return *(of if need else None for of, need in zip(found, needs, strict=True)), None, None, None


def _matching(x: Tensor, y: Tensor, scale: Tensor) -> Pairs:
    """Leave out of each row of x the same row of y."""
    return Pairs.of_views(x, y, scale, 0, 1)


def _stay(need_x: bool, need_y: bool, need_scale: bool) -> tuple[bool, bool]:
    """Say which sides stay on the second trip. Either of them knows the gradient of the scale."""
    return need_x or (need_scale and not need_y), need_y


def _part(lse: Tensor, of: Tensor, scale: Tensor) -> Tensor:
    """Return exp(lse - of) for each row, in the dtype of sums; of nothing, which is -inf, nothing is a part."""
    return torch.exp(lse - of.clamp_min(torch.finfo(of.dtype).min)).to(scale.dtype)[:, None]


def _packed(rows: Tensor, lse: Tensor | None, weights: Tensor | None) -> list[Tensor]:
    """Make a block of rows and, where they are anchors, their log-sum-exps and the weights of these."""
    return [rows] if lse is None or weights is None else [rows, torch.stack((lse, weights), 1)]


def _unpacked(block: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    return (block[0], None, None) if len(block) == 1 else (block[0], *block[1].T.contiguous())
