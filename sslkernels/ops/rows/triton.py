# SPDX-License-Identifier: Apache-2.0
"""The rows family on Triton: allocate and launch. Nothing here waits for the device: sizes follow from shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.launch import rows_of
from sslkernels.ops.rows import triton_kernels as kernels
from sslkernels.ops.rows.schema import CosineLoss, Matched
from sslkernels.ops.triton_launch import cdiv, floats, row_tile

# Registers per thread for cosine_loss, which holds both gradients. Left alone, ptxas aims at fewer, and spills.
REGISTERS = 128


def unit_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    z0, z1 = rows_of(z0), None if z1 is None else rows_of(z1)
    (n, d), more = z0.shape, 0 if z1 is None else z1.shape[0]
    unit, norms = z0.new_empty((n + more, d), dtype=dtype), floats(z0, n + more)
    size = row_tile(d)
    programs = cdiv(n, size["BLOCK_N"]) + cdiv(more, size["BLOCK_N"])
    if programs:
        kernels.unit_rows_kernel[(programs,)](
            z0, z1, unit, norms, n, more, d, z0.stride(0), 0 if z1 is None else z1.stride(0), **size
        )
    return unit, norms


def unit_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, d = unit.shape
    grad = rows_of(grad)
    parts = unit.new_empty((n0, d), dtype=dtype), unit.new_empty((n - n0, d), dtype=dtype)
    size = row_tile(d)
    for part, here in zip(parts, (slice(0, n0), slice(n0, n)), strict=True):
        if part.shape[0]:
            kernels.unit_rows_backward_kernel[(cdiv(part.shape[0], size["BLOCK_N"]),)](
                unit[here], norms[here], grad[here], part, part.shape[0], d, grad.stride(0), **size
            )
    return parts


def dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    x, y = rows_of(x), rows_of(x if y is None else y)
    n, d = x.shape
    out = floats(x, n)
    size = row_tile(d)
    if n:
        kernels.row_dot_kernel[(cdiv(n, size["BLOCK_N"]),)](
            x, y, out, n, y.shape[0], d, x.stride(0), y.stride(0), shift % y.shape[0], **size
        )
    return out


def dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    if y is None:
        return _partner_gradient(x, x, shift, grad, given=True, received=True), x.new_empty(0)
    return (
        _partner_gradient(x, y, shift, grad, given=True, received=False) if need_x else x.new_empty(0),
        _partner_gradient(x, y, shift, grad, given=False, received=True) if need_y else x.new_empty(0),
    )


def cosine_forward(rows: Matched) -> tuple[Tensor, Tensor]:
    x, y = rows_of(rows.x), rows_of(rows.y)
    n, d = x.shape
    cosines, norms = floats(x, n), floats(x, 2, n)
    size = row_tile(d)
    if n:
        kernels.row_cosine_kernel[(cdiv(n, size["BLOCK_N"]),)](
            x, y, cosines, norms, n, d, x.stride(0), y.stride(0), rows.eps, **size
        )
    return cosines, norms


def cosine_backward(
    rows: Matched, cosines: Tensor, norms: Tensor, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    x, y = rows_of(rows.x), rows_of(rows.y)
    n, d = x.shape
    dx, dy = x.new_empty((n, d) if need_x else (0,)), y.new_empty((n, d) if need_y else (0,))
    size = row_tile(d)
    if n:
        kernels.row_cosine_backward_kernel[(cdiv(n, size["BLOCK_N"]),)](
            x, y, cosines, norms, grad, dx if need_x else None, dy if need_y else None, n, d, x.stride(0),
            y.stride(0), grad.stride(0), rows.eps, **size,
        )  # fmt: skip
    return dx, dy


def cosine_loss(loss: CosineLoss, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, y, eps, offset, weight, ranks, divisor = loss
    x, y = rows_of(x), rows_of(y)
    n, d = x.shape
    losses = floats(x, n)
    dx, dy = floats(x, n, d) if need_x else floats(x, 0), floats(y, n, d) if need_y else floats(y, 0)
    size = row_tile(d)
    if n:
        kernels.cosine_loss_kernel[(cdiv(n, size["BLOCK_N"]),)](
            x, y, losses, dx if need_x else None, dy if need_y else None, n, d, x.stride(0), y.stride(0), eps,
            float(offset), float(weight), ranks / divisor, **size, maxnreg=REGISTERS,
        )  # fmt: skip
    return losses.sum(), dx, dy


def _partner_gradient(x: Tensor, y: Tensor, shift: int, grad: Tensor, given: bool, received: bool) -> Tensor:
    x, y, grad = rows_of(x), rows_of(y), grad.contiguous()
    like = x if given else y
    n, d = like.shape
    out = like.new_empty((n, d))
    size = row_tile(d)
    if n:
        kernels.row_dot_backward_kernel[(cdiv(n, size["BLOCK_N"]),)](
            x, y, grad, out, x.shape[0], y.shape[0], d, x.stride(0), y.stride(0), shift % y.shape[0], n,
            GIVEN=given, RECEIVED=received, **size,
        )  # fmt: skip
    return out
