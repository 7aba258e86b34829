# SPDX-License-Identifier: Apache-2.0
"""Differentiate log-sum-exps of similarities. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.schema import Moved, Pairs, Sums

# The tensors among the fields of Pairs, and the places of those that may ask for a gradient.
_TENSORS = ("x", "y", "scale", "exclude", "bias", "row_labels", "col_labels")
_DIFFERENTIABLE = tuple(Pairs._fields.index(name) for name in _TENSORS[:5])


class LogSumExpSimilarity(torch.autograd.Function):
    """Compute log-sum-exps of rows, and of columns if asked. With frozen keys one flash pass also prepares dx."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:  # torch.compile counts parameters, and would leave out ctx
        *fields, columns, backend = arguments
        pairs = Pairs(*fields)
        need_x, need_y, need_scale, _, need_bias = (ctx.needs_input_grad[place] for place in _DIFFERENTIABLE)
        keys_move = need_y or need_bias
        attend = pairs.y is not None and not keys_move and not columns and (need_x or need_scale)
        rows, cols, attended = similarity.forward(pairs, columns, attend, backend)
        ctx.attend, ctx.columns, ctx.backend = attend, columns, backend
        without: dict[str, Any] = dict.fromkeys(_TENSORS)
        ctx.rules = pairs._replace(**without)
        if attend:  # the keys are not kept: a queue may be overwritten before the backward runs
            ctx.save_for_backward(pairs.x, None, pairs.scale, *[None] * 6, attended)
        else:
            tensors = (getattr(pairs, name) for name in _TENSORS)
            ctx.save_for_backward(*tensors, rows, cols if columns else None, None)
        return (rows, cols) if columns else rows

    @staticmethod
    @first_derivative
    def backward(ctx: Any, rows_grad: Tensor, cols_grad: Tensor | None = None) -> Any:
        *tensors, rows, cols, attended = ctx.saved_tensors
        pairs = ctx.rules._replace(**dict(zip(_TENSORS, tensors, strict=True)))
        x, y, scale = pairs.x, pairs.y, pairs.scale
        need_x, need_y, need_scale, _, need_bias = (ctx.needs_input_grad[place] for place in _DIFFERENTIABLE)
        twice = y is None and ctx.columns  # x stands on both sides of the matrix: we pass it twice and add both
        keys = x if twice else y
        itself = keys is None and not ctx.attend
        need_keys = need_y or (twice and need_x)
        of_bias = None
        if ctx.attend:
            moved_x, moved_y = attended * rows_grad[:, None], None
        else:
            rows_grad, cols_grad = rows_grad.contiguous(), None if cols_grad is None else cols_grad.contiguous()
            sums = Sums(rows, rows_grad, *((rows, rows_grad) if itself else (cols, cols_grad)))
            pairs = pairs._replace(y=keys, col_labels=pairs.row_labels if twice else pairs.col_labels)
            moved_x, moved_y, of_bias = similarity.backward(
                pairs, sums, need_x or need_scale, need_keys, need_bias, ctx.backend
            )
        ends = Moved(
            x, moved_x if need_x or need_scale else None, None, keys, moved_y if need_keys else None, None, scale
        )
        dx, dy, along = similarity.finish(ends, None, need_x, need_keys, need_scale, ctx.backend)
        if twice and need_x:
            dx = dx + dy
        gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        # With itself each pair counts twice, in the sum of its row and in that of its column.
        gradients[:3] = (
            dx.to(x.dtype) if need_x else None,
            dy.to(x.dtype) if need_y else None,
            (along / 2 if itself else along) if need_scale else None,
        )
        gradients[_DIFFERENTIABLE[-1]] = of_bias if need_bias else None
        return tuple(gradients)
