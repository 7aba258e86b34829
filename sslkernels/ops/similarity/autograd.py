# SPDX-License-Identifier: Apache-2.0
"""Differentiate log-sum-exps of similarities, and size a forward's workspace. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.backends import WORKSPACE
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.dtypes import wide
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.schema import Pairs, Sums


def workspace(x: Tensor, y: Tensor | None, half: bool, backend: str, needed: bool) -> Tensor | None:
    """Allocate the memory in which the forward keeps its exponentials for the backward; None if it keeps none.

    The op takes it as an argument and does not return it as a result, which would have to be defined everywhere:
    clearing the places that hold no exponential would cost a pass over fresh pages.
    """
    numbers = kept_numbers(x, y, half, backend, needed)
    return torch.empty(numbers, dtype=wide(x.dtype), device=x.device) if numbers else None


def kept_numbers(x: Tensor, y: Tensor | None, half: bool, backend: str, needed: bool) -> int:
    """Return how many numbers the workspace holds, 0 if there is none; ``half`` says that it holds a triangle of pairs.

    It saves the backward the product of all pairs and their exponentials. Only the C++ kernels use it, on a grid of
    tiles whose sides divide 48; they recompute if another schedule takes more room.
    """
    if backend != "cpu" or not needed:
        return 0
    n, m = x.shape[0], (x if y is None else y).shape[0]
    if kept_bytes(n, m, x.dtype, half) > kept_limit(x.shape[1]):
        return 0
    n, m = -(-n // 48) * 48, -(-m // 48) * 48
    pairs = (n + 192) * (n + 384) // 2 if half else n * m  # each two blocks of at most 192 rows have a slot
    return pairs // 24 * 25 + 64  # each tile of at least 24 has a maximum, and there is a header


def kept_bytes(n: int, m: int, dtype: torch.dtype, half: bool) -> int:
    """Return how many bytes of the workspace are written."""
    return n * m * wide(dtype).itemsize // (2 if half else 1)


def kept_limit(d: int) -> int:
    """Return the largest workspace in bytes that pays, as measured on one machine.

    Beyond the memory that the allocator reuses, fresh memory can cost more than the product that it saves.
    docs/design/similarity.md has the figures, and says where they are close.
    """
    return min(WORKSPACE, (64 if d >= 512 else 32) << 20)


class LogSumExpSimilarity(torch.autograd.Function):
    """Compute log-sum-exps of rows, and of columns if asked. With frozen keys one flash pass also prepares dx."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor | None, columns: bool, backend: str
    ) -> Any:
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        attend = y is not None and not need_y and not columns and (need_x or need_scale)
        needed = not attend and any((need_x, need_y, need_scale))
        kept = workspace(x, y, y is None and not columns, backend, needed)
        rows, cols, attended = similarity.forward(Pairs(x, y, scale, exclude), columns, attend, kept, backend)
        ctx.attend, ctx.columns, ctx.backend = attend, columns, backend
        if attend:  # the keys are not kept: a queue may be overwritten before the backward runs
            ctx.save_for_backward(x, None, scale, None, None, None, attended, None)
        else:
            ctx.save_for_backward(x, y, scale, exclude, rows, cols if columns else None, None, kept)
        ctx.x_dtype = x.dtype
        return (rows, cols) if columns else rows

    @staticmethod
    @first_derivative
    def backward(ctx: Any, rows_grad: Tensor, cols_grad: Tensor | None = None) -> Any:
        x, y, scale, exclude, rows, cols, attended, kept = ctx.saved_tensors
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        if ctx.attend:
            dx = (attended * (scale * rows_grad)[:, None]).to(ctx.x_dtype) if need_x else None
            dscale = ((x.to(attended.dtype) * attended).sum(1) * rows_grad).sum() if need_scale else None
            return dx, None, dscale, None, None, None
        if y is None and not ctx.columns:
            cols, cols_grad = rows, rows_grad
        rows_grad = rows_grad.contiguous()
        cols_grad = None if cols_grad is None else cols_grad.contiguous()
        sums = Sums(rows, rows_grad, cols, cols_grad)
        if y is None and ctx.columns:  # x stands on both sides of the matrix: we pass it twice and add both gradients
            dx, dy, dscale = similarity.backward(Pairs(x, x, scale, exclude), sums, kept, True, True, ctx.backend)
            return dx + dy, None, dscale.to(scale.dtype) if need_scale else None, None, None, None
        dx, dy, dscale = similarity.backward(
            Pairs(x, y, scale, exclude), sums, kept, need_x or y is None, need_y, ctx.backend
        )
        return (
            dx if need_x else None,
            dy if need_y else None,
            dscale.to(scale.dtype) if need_scale else None,
            None,
            None,
            None,
        )
