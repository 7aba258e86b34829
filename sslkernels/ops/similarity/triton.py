# SPDX-License-Identifier: Apache-2.0
"""The similarity family on Triton: choose the way through the pairs, and take it.

Nothing here waits for the device: the scale is read from its pointer, and every size follows from shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.launch import contiguous, rows_of
from sslkernels.ops.similarity import composed, triton_anchors, triton_contrast
from sslkernels.ops.similarity import triton_fused as fused
from sslkernels.ops.similarity import triton_tiles as tiles
from sslkernels.ops.similarity.schema import Anchors, Moved, Needs, Pairs, Positives, Sums
from sslkernels.ops.similarity.triton_anchors import Parts
from sslkernels.ops.similarity.triton_contrast import moved
from sslkernels.ops.similarity.triton_parts import Running, attended_of, lse_of, terms_of, total
from sslkernels.ops.similarity.triton_plan import keys_of, plan_for
from sslkernels.ops.triton_launch import floats


def forward(pairs: Pairs, columns: bool, attend: bool) -> tuple[Tensor, Tensor, Tensor]:
    pairs = _prepared(pairs)
    x, (n, d), m = pairs.x, pairs.x.shape, keys_of(pairs).shape[0]
    if n == 0 or m == 0:
        return (
            floats(x, n).fill_(-torch.inf),
            floats(x, m if columns else 0).fill_(-torch.inf),
            floats(x, *((n, d) if attend else (0,))).zero_(),
        )
    way = plan_for(pairs)
    if attend and way.fused is not None and not columns:
        running, parts = fused.attended(way.fused, pairs)
        rows = lse_of(running)
        return rows, floats(x, 0), attended_of(running, parts, rows)
    swept = tiles.sums(way, pairs, columns, attend)
    rows = lse_of(swept.rows)
    column_sums = floats(x, 0) if swept.columns is None else lse_of(swept.columns)
    return rows, column_sums, tiles.attended(way, pairs, rows, swept.products) if attend else floats(x, 0)


def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, need_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    pairs = _prepared(pairs)
    x, keys = pairs.x, keys_of(pairs)
    need_y = need_y and pairs.y is not None
    if x.shape[0] == 0 or keys.shape[0] == 0:
        wanted = ((x.shape, need_x), (keys.shape, need_y), (keys.shape[:1], need_bias))
        moved_x, moved_y, nothing = (floats(x, *(shape if need else (0,))).zero_() for shape, need in wanted)
        return moved_x, moved_y, nothing
    terms = terms_of(sums, x.dtype)
    of_bias = floats(x, keys.shape[0]).zero_() if need_bias else None
    way = plan_for(pairs)
    if of_bias is None:
        sides = moved(way, pairs, terms, need_x, need_y, None)
    else:
        sides = tiles.moved(way, pairs, terms, need_x, need_y, None, of_bias)
    moved_x, moved_y = (floats(x, 0) if parts is None else total(parts, terms.largest) for parts in sides)
    return moved_x, moved_y, floats(x, 0) if of_bias is None else total(of_bias[None, :, None], terms.largest)[:, 0]


def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_columns = None if cols is None else Running(cols.contiguous(), None)
    weighed = triton_anchors.weigh(positives, Running(rows.contiguous(), None), of_columns, share, True, False, False)
    value, pulled = triton_anchors.summed(weighed.losses, weighed.pulled)
    return value, weighed.weights, weighed.pull, pulled  # type: ignore[return-value]


def finish(
    moved: Moved, pull: Tensor | None, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x_parts, y_parts = (
        Parts(None if sums is None else sums.contiguous()[None]) for sums in (moved.moved_x, moved.moved_y)
    )
    return triton_anchors.finish(moved, x_parts, y_parts, None, pull, None, need_x, need_y, need_scale)


def contrast(anchors: Anchors, mean: bool, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    keys = anchors.y if anchors.negatives is None else anchors.negatives
    if anchors.x.shape[0] == 0 or keys.shape[0] == 0:
        return composed.contrast(anchors, mean, needs, Shard.alone, "triton")
    return triton_contrast.contrast(anchors, mean, needs)


def _prepared(pairs: Pairs) -> Pairs:
    """Pairs as kernels read them."""
    y = None if pairs.y is None else rows_of(pairs.y)
    exclude, bias = contiguous(pairs.exclude), contiguous(pairs.bias)
    labels = contiguous(pairs.row_labels), contiguous(pairs.col_labels)
    return pairs._replace(
        x=rows_of(pairs.x), y=y, exclude=exclude, bias=bias, row_labels=labels[0], col_labels=labels[1]
    )
