# SPDX-License-Identifier: Apache-2.0
"""Differentiate unit rows and products of matching rows. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.rows.schema import dot_backward, dot_forward, unit_backward, unit_forward


class UnitRows(torch.autograd.Function):
    """Stack the rows of one or two parts and normalise them; the backward needs only the unit rows and the norms."""

    @staticmethod
    def forward(ctx: Any, z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> Tensor:
        unit, norms = unit_forward(z0, z1, dtype, backend)
        ctx.save_for_backward(unit, norms)
        ctx.n0, ctx.dtype, ctx.backend = z0.shape[0], z0.dtype, backend
        return unit

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        unit, norms = ctx.saved_tensors
        dz0, dz1 = unit_backward(unit, norms, grad, ctx.n0, ctx.dtype, ctx.backend)
        return dz0, dz1 if ctx.needs_input_grad[1] else None, None, None


class RowDot(torch.autograd.Function):
    """Multiply matching rows: <x_i, y_((i + shift) mod M)>."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.shift, ctx.backend = shift, backend
        return dot_forward(x, y, shift, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        dx, dy = dot_backward(x, y, ctx.shift, grad.contiguous(), need_x, need_y, ctx.backend)
        return dx if need_x else None, dy if need_y else None, None, None
