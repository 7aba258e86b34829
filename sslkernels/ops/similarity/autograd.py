# SPDX-License-Identifier: Apache-2.0
"""Differentiate log-sum-exps of similarities. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.schema import Moved, Pairs, Sums


class LogSumExpSimilarity(torch.autograd.Function):
    """Compute log-sum-exps of rows, and of columns if asked. With frozen keys one flash pass also prepares dx."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor | None,
        scale: Tensor,
        exclude: Tensor | None,
        start: int,
        views: int,
        columns: bool,
        backend: str,
    ) -> Any:
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        attend = y is not None and not need_y and not columns and (need_x or need_scale)
        rows, cols, attended = similarity.forward(Pairs(x, y, scale, exclude, start, views), columns, attend, backend)
        ctx.attend, ctx.columns, ctx.backend, ctx.views = attend, columns, backend, (start, views)
        if attend:  # the keys are not kept: a queue may be overwritten before the backward runs
            ctx.save_for_backward(x, None, scale, None, None, None, attended)
        else:
            ctx.save_for_backward(x, y, scale, exclude, rows, cols if columns else None, None)
        return (rows, cols) if columns else rows

    @staticmethod
    @first_derivative
    def backward(ctx: Any, rows_grad: Tensor, cols_grad: Tensor | None = None) -> Any:
        x, y, scale, exclude, rows, cols, attended = ctx.saved_tensors
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        twice = y is None and ctx.columns  # x stands on both sides of the matrix: we pass it twice and add both
        keys = x if twice else y
        itself = keys is None and not ctx.attend
        need_keys = need_y or (twice and need_x)
        if ctx.attend:
            moved_x, moved_y = attended * rows_grad[:, None], None
        else:
            rows_grad, cols_grad = rows_grad.contiguous(), None if cols_grad is None else cols_grad.contiguous()
            sums = Sums(rows, rows_grad, *((rows, rows_grad) if itself else (cols, cols_grad)))
            moved_x, moved_y = similarity.backward(
                Pairs(x, keys, scale, exclude, *ctx.views), sums, need_x or need_scale, need_keys, ctx.backend
            )
        ends = Moved(
            x, moved_x if need_x or need_scale else None, None, keys, moved_y if need_keys else None, None, scale
        )
        dx, dy, along = similarity.finish(ends, None, need_x, need_keys, need_scale, ctx.backend)
        if twice and need_x:
            dx = dx + dy
        # With itself each pair counts twice, in the sum of its row and in that of its column.
        return (
            dx.to(x.dtype) if need_x else None,
            dy.to(x.dtype) if need_y else None,
            (along / 2 if itself else along) if need_scale else None,
            *[None] * 5,
        )
