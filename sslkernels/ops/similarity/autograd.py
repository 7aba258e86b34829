# SPDX-License-Identifier: Apache-2.0
"""Registration of the similarity ops, their fakes, and their gradients. Reductions are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.backends import WORKSPACE
from sslkernels.ops.registry import define, family, first_derivative, wide

_run = family("similarity")


def _forward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    columns: bool,
    attend: bool,
    kept: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _run("forward", backend, x, y, scale, exclude, columns, attend, kept)


def _forward_fake(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    columns: bool,
    attend: bool,
    kept: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    n, m = x.shape[0], (x if y is None else y).shape[0]
    dtype = wide(x.dtype)
    return (
        x.new_empty((n,), dtype=dtype),
        x.new_empty((m if columns else 0,), dtype=dtype),
        x.new_empty((n, x.shape[1]) if attend else (0,), dtype=dtype),
    )


def _backward(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    rows: Tensor | None,
    rows_grad: Tensor | None,
    cols: Tensor | None,
    cols_grad: Tensor | None,
    kept: Tensor | None,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _run("backward", backend, x, y, scale, exclude, rows, rows_grad, cols, cols_grad, kept, need_x, need_y)


def _backward_fake(
    x: Tensor,
    y: Tensor | None,
    scale: Tensor,
    exclude: Tensor | None,
    rows: Tensor | None,
    rows_grad: Tensor | None,
    cols: Tensor | None,
    cols_grad: Tensor | None,
    kept: Tensor | None,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape)) if need_y and y is not None else x.new_empty(0),
        x.new_empty((), dtype=wide(x.dtype)),
    )


def _unit_rows_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    return _run("unit_rows_forward", backend, z0, z1, dtype)


def _unit_rows_forward_fake(z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    n = z0.shape[0] + (0 if z1 is None else z1.shape[0])
    return z0.new_empty((n, z0.shape[1]), dtype=dtype), z0.new_empty((n,), dtype=wide(z0.dtype))


def _unit_rows_backward(
    unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    return _run("unit_rows_backward", backend, unit, norms, grad, n0, dtype)


def _unit_rows_backward_fake(
    unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    n, d = unit.shape
    return unit.new_empty((n0, d), dtype=dtype), unit.new_empty((n - n0, d), dtype=dtype)


def _row_dot_forward(x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
    return _run("row_dot_forward", backend, x, y, shift)


def _row_dot_forward_fake(x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
    return x.new_empty((x.shape[0],), dtype=wide(x.dtype))


def _row_dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return _run("row_dot_backward", backend, x, y, shift, grad, need_x, need_y)


def _row_dot_backward_fake(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape)) if need_y and y is not None else x.new_empty(0),
    )


similarity_forward = define(
    "similarity_forward(Tensor x, Tensor? y, Tensor scale, Tensor? exclude, bool columns, bool attend,"
    " Tensor(a!)? kept, str backend) -> (Tensor, Tensor, Tensor)",
    _forward,
    _forward_fake,
)
similarity_backward = define(
    "similarity_backward(Tensor x, Tensor? y, Tensor scale, Tensor? exclude, Tensor? rows, Tensor? rows_grad,"
    " Tensor? cols, Tensor? cols_grad, Tensor? kept, bool need_x, bool need_y, str backend)"
    " -> (Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
)
unit_rows_forward = define(
    "unit_rows_forward(Tensor z0, Tensor? z1, ScalarType dtype, str backend) -> (Tensor, Tensor)",
    _unit_rows_forward,
    _unit_rows_forward_fake,
)
unit_rows_backward = define(
    "unit_rows_backward(Tensor unit, Tensor norms, Tensor grad, SymInt n0, ScalarType dtype, str backend)"
    " -> (Tensor, Tensor)",
    _unit_rows_backward,
    _unit_rows_backward_fake,
)
row_dot_forward = define(
    "row_dot_forward(Tensor x, Tensor? y, SymInt shift, str backend) -> Tensor",
    _row_dot_forward,
    _row_dot_forward_fake,
)
row_dot_backward = define(
    "row_dot_backward(Tensor x, Tensor? y, SymInt shift, Tensor grad, bool need_x, bool need_y, str backend)"
    " -> (Tensor, Tensor)",
    _row_dot_backward,
    _row_dot_backward_fake,
)


def workspace(x: Tensor, y: Tensor | None, half: bool, backend: str, needed: bool) -> Tensor | None:
    """Where the forward leaves its exponentials for the backward, None where it leaves none.

    It is an argument that the op writes to, not a result: what stands where no exponential belongs is nobody's, and
    clearing it would cost a pass over fresh pages.
    """
    numbers = kept_numbers(x, y, half, backend, needed)
    return torch.empty(numbers, dtype=wide(x.dtype), device=x.device) if numbers else None


def kept_numbers(x: Tensor, y: Tensor | None, half: bool, backend: str, needed: bool) -> int:
    """Size of the workspace, 0 where there is none.

    Exponentials that are kept save the backward a product of all pairs and their exponentials; ``half``: a triangle of
    pairs. The C++ kernels alone use it, on a grid of tiles whose sides divide 48, and recompute where another schedule
    takes more room.
    """
    if backend != "cpu" or not needed:
        return 0
    n, m = x.shape[0], (x if y is None else y).shape[0]
    if kept_bytes(n, m, x.dtype, half) > kept_limit(x.shape[1]):
        return 0
    n, m = -(-n // 48) * 48, -(-m // 48) * 48
    pairs = (n + 192) * (n + 384) // 2 if half else n * m  # a slot for each two blocks of at most 192 rows
    return pairs // 24 * 25 + 64  # a maximum for each tile of at least 24, and a header


def kept_bytes(n: int, m: int, dtype: torch.dtype, half: bool) -> int:
    """What of that workspace is written."""
    return n * m * wide(dtype).itemsize // (2 if half else 1)


def kept_limit(d: int) -> int:
    """The workspace that pays, as measured on one machine: beyond what the allocator reuses, fresh memory can cost more
    than the product saved. docs/design/similarity.md has the figures, and where they are close.
    """
    return min(WORKSPACE, (64 if d >= 512 else 32) << 20)


class LogSumExpSimilarity(torch.autograd.Function):
    """Rows, and columns where asked. Frozen keys take the flash pass: dx is ready when the forward ends."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor | None, columns: bool, backend: str
    ) -> Any:
        need_x, need_y, need_scale = ctx.needs_input_grad[:3]
        attend = y is not None and not need_y and not columns and (need_x or need_scale)
        needed = not attend and any((need_x, need_y, need_scale))
        kept = workspace(x, y, y is None and not columns, backend, needed)
        rows, cols, attended = similarity_forward(x, y, scale, exclude, columns, attend, kept, backend)
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
        if y is None and ctx.columns:
            dx, dscale = _self_backward_of_both(x, scale, exclude, rows, rows_grad, cols, cols_grad, kept, ctx.backend)
            return dx, None, dscale if need_scale else None, None, None, None
        dx, dy, dscale = similarity_backward(
            x, y, scale, exclude, rows, rows_grad, cols, cols_grad, kept, need_x or y is None, need_y, ctx.backend
        )
        return (
            dx if need_x else None,
            dy if need_y else None,
            dscale.to(scale.dtype) if need_scale else None,
            None,
            None,
            None,
        )


def _self_backward_of_both(
    x: Tensor,
    scale: Tensor,
    exclude: Tensor | None,
    rows: Tensor,
    rows_grad: Tensor,
    cols: Tensor | None,
    cols_grad: Tensor | None,
    kept: Tensor | None,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """x with itself, rows and columns: the same matrix twice, so x is passed on both sides and the two are added."""
    dx, dy, dscale = similarity_backward(
        x, x, scale, exclude, rows, rows_grad, cols, cols_grad, kept, True, True, backend
    )
    return dx + dy, dscale.to(scale.dtype)


class UnitRows(torch.autograd.Function):
    """Rows of one or two parts, stacked and normalised; keeps only the unit rows and the norms."""

    @staticmethod
    def forward(ctx: Any, z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> Tensor:
        unit, norms = unit_rows_forward(z0, z1, dtype, backend)
        ctx.save_for_backward(unit, norms)
        ctx.n0, ctx.dtype, ctx.backend = z0.shape[0], z0.dtype, backend
        return unit

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        unit, norms = ctx.saved_tensors
        dz0, dz1 = unit_rows_backward(unit, norms, grad, ctx.n0, ctx.dtype, ctx.backend)
        return dz0, dz1 if ctx.needs_input_grad[1] else None, None, None


class RowDot(torch.autograd.Function):
    """<x_i, y_((i + shift) mod M)>."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.shift, ctx.backend = shift, backend
        return row_dot_forward(x, y, shift, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        dx, dy = row_dot_backward(x, y, ctx.shift, grad.contiguous(), need_x, need_y, ctx.backend)
        return dx if need_x else None, dy if need_y else None, None, None
