# SPDX-License-Identifier: Apache-2.0
"""The similarity family on Triton: choose the way through the pairs, and take it.

Nothing here waits for the device: the scale is read from its pointer, and every size follows from shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.launch import rows_of
from sslkernels.ops.similarity import triton_chunked as chunked
from sslkernels.ops.similarity import triton_fused as fused
from sslkernels.ops.similarity.schema import Pairs, Sums
from sslkernels.ops.similarity.triton_parts import with_headroom
from sslkernels.ops.similarity.triton_plan import plan_for
from sslkernels.ops.triton_launch import floats


def forward(pairs: Pairs, columns: bool, attend: bool, kept: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    x, y, scale, exclude = pairs
    x, keys, exclude = rows_of(x), rows_of(x if y is None else y), _lists(exclude)
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    if n == 0 or m == 0:
        rows = floats(x, n).fill_(-torch.inf)
        return (
            rows,
            floats(x, m if columns else 0).fill_(-torch.inf),
            floats(x, *((n, d) if attend else (0,))).zero_(),
        )
    way = plan_for(x, m, exclude)
    with torch.cuda.device_of(x):
        through = fused if way.path == "fused" else chunked
        return through.forward(way, x, keys, scale, exclude, columns, attend)


def backward(
    pairs: Pairs, sums: Sums, kept: Tensor | None, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor, Tensor]:
    (x, y, scale, exclude), (rows, rows_grad, cols, cols_grad) = pairs, sums
    x, exclude = rows_of(x), _lists(exclude)
    keys, itself = x if y is None else rows_of(y), y is None
    need_y = need_y and not itself
    if x.shape[0] == 0 or keys.shape[0] == 0:
        return (
            torch.zeros_like(x, memory_format=torch.contiguous_format) if need_x else x.new_empty(0),
            torch.zeros_like(keys, memory_format=torch.contiguous_format) if need_y else x.new_empty(0),
            floats(x).zero_(),
        )
    by_rows = None if rows is None or rows_grad is None else (rows.contiguous(), rows_grad.contiguous())
    by_columns = None if cols is None or cols_grad is None else (cols.contiguous(), cols_grad.contiguous())
    unit = None
    if x.dtype == torch.float16 and (by_rows or by_columns):
        by_rows, by_columns, unit = with_headroom(by_rows, by_columns)
    way = plan_for(x, keys.shape[0], exclude)
    with torch.cuda.device_of(x):
        through = fused if way.path == "fused" else chunked
        dx, dy, row_dscale = through.backward(
            way, x, keys, itself, scale, exclude, by_rows, by_columns, unit, need_x, need_y
        )
    dscale = row_dscale.sum()
    return dx, dy, dscale / 2 if itself else dscale


def _lists(exclude: Tensor | None) -> Tensor | None:
    return None if exclude is None or exclude.shape[1] == 0 else exclude.contiguous()
