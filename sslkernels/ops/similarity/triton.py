# SPDX-License-Identifier: Apache-2.0
"""The similarity family on Triton: choose the way through the pairs, and take it.

Nothing here waits for the device: the scale is read from its pointer, and every size follows from shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.launch import rows_of
from sslkernels.ops.similarity import composed, reference
from sslkernels.ops.similarity import triton_chunked as chunked
from sslkernels.ops.similarity import triton_fused as fused
from sslkernels.ops.similarity.anchors import left_out_by
from sslkernels.ops.similarity.schema import Anchors, Needs, Pairs, Sums
from sslkernels.ops.similarity.triton_parts import terms_of
from sslkernels.ops.similarity.triton_plan import keys_of, plan_for
from sslkernels.ops.triton_launch import floats

weigh, finish = reference.weigh, reference.finish


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
    with torch.cuda.device_of(x):
        through = fused if way.path == "fused" else chunked
        return through.forward(way, pairs, columns, attend)


def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor]:
    pairs = _prepared(pairs)
    x, keys = pairs.x, keys_of(pairs)
    need_y = need_y and pairs.y is not None
    if x.shape[0] == 0 or keys.shape[0] == 0:
        shapes = (of.shape if need else (0,) for of, need in ((x, need_x), (keys, need_y)))
        moved_x, moved_y = (floats(x, *shape).zero_() for shape in shapes)
        return moved_x, moved_y
    way, terms = plan_for(pairs), terms_of(sums, x.dtype)
    with torch.cuda.device_of(x):
        through = fused if way.path == "fused" else chunked
        return through.backward(way, pairs, terms, need_x, need_y)


def contrast(anchors: Anchors, mean: bool, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return composed.contrast(anchors, mean, needs, Shard.alone, "triton")


def _prepared(pairs: Pairs) -> Pairs:
    """Pairs as kernels read them; an empty list of exclusions is None."""
    x, y, scale, exclude = pairs.x, pairs.y, pairs.scale, left_out_by(pairs)
    exclude = None if exclude is None or exclude.shape[1] == 0 else exclude.contiguous()
    return Pairs(rows_of(x), None if y is None else rows_of(y), scale, exclude)
