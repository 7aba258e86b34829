# SPDX-License-Identifier: Apache-2.0
"""Run the rows family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, rows_of
from sslkernels.ops.rows.schema import CosineLoss, Matched


def unit_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n0, d = z0.shape
    n = n0 + (0 if z1 is None else z1.shape[0])
    unit = torch.empty((n, d), dtype=dtype, device="cpu")
    norms = torch.empty(n, dtype=wide(z0.dtype), device="cpu")
    for part, start in ((z0, 0), (z1, n0)):
        if part is not None:
            part = rows_of(part)
            _C.unit_rows_forward(
                CODES[part.dtype], part.data_ptr(), part.stride(0), part.shape[0], d, CODES[dtype],
                unit.data_ptr() + start * d * unit.element_size(), norms.data_ptr() + start * norms.element_size(),
                torch.get_num_threads(),
            )  # fmt: skip
    return unit, norms


def unit_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n, d = unit.shape
    grad = rows_of(grad)
    parts = (torch.empty((n0, d), dtype=dtype, device="cpu"), torch.empty((n - n0, d), dtype=dtype, device="cpu"))
    for part, start in zip(parts, (0, n0), strict=True):
        _C.unit_rows_backward(
            CODES[unit.dtype], unit.data_ptr() + start * d * unit.element_size(),
            norms.data_ptr() + start * norms.element_size(),
            grad.data_ptr() + start * grad.stride(0) * grad.element_size(), grad.stride(0), part.shape[0], d,
            CODES[dtype], part.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
    return parts


def dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    x, y = rows_of(x), alike(x, x if y is None else y)
    out = torch.empty(x.shape[0], dtype=wide(x.dtype), device="cpu")
    _C.row_dot_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), y.shape[0], x.shape[1],
        shift, out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    if y is None:  # a row gets a gradient as x_i and another as the partner of some row: one pass adds both
        return _scale_rows(x, x, grad, shift, -shift), x.new_empty(0)
    dx = _scale_rows(x, y, grad, shift, None) if need_x else x.new_empty(0)
    if not need_y:
        return dx, x.new_empty(0)
    if x.shape[0] == y.shape[0]:
        return dx, _scale_rows(y, x, grad.roll(shift), -shift, None)
    dy = torch.zeros(y.shape, dtype=y.dtype, device="cpu")
    index = (torch.arange(x.shape[0], device="cpu") + shift) % y.shape[0]
    return dx, dy.index_copy_(0, index, _scale_rows(x, x, grad, 0, None))


def cosine_forward(rows: Matched) -> tuple[Tensor, Tensor]:
    x, y = rows_of(rows.x), alike(rows.x, rows.y)
    n, d = x.shape
    cosines, norms = (torch.empty(size, dtype=wide(x.dtype), device="cpu") for size in ((n,), (2, n)))
    _C.row_cosine_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n, d, rows.eps,
        cosines.data_ptr(), norms.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return cosines, norms


def cosine_backward(
    rows: Matched, cosines: Tensor, norms: Tensor, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    x, y = rows_of(rows.x), alike(rows.x, rows.y)
    n, d = x.shape
    dx, dy = (torch.empty((n, d) if need else (0,), dtype=x.dtype, device="cpu") for need in (need_x, need_y))
    _C.row_cosine_backward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n, d, rows.eps, cosines.data_ptr(),
        norms.data_ptr(), grad.data_ptr(), grad.stride(0), dx.data_ptr(), dy.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dx, dy


def cosine_loss(loss: CosineLoss, need_x: bool, need_y: bool) -> tuple[Tensor, Tensor, Tensor]:
    x, y, eps, offset, weight, ranks, divisor = loss
    x, y, dtype = rows_of(x), alike(x, y), wide(x.dtype)
    n, d = x.shape
    value = torch.empty((), dtype=dtype, device="cpu")
    dx = torch.empty((n, d) if need_x else (0,), dtype=dtype, device="cpu")
    dy = torch.empty((n, d) if need_y else (0,), dtype=dtype, device="cpu")
    _C.row_cosine_loss(
        CODES[x.dtype], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n, d, eps, offset, weight,
        ranks / divisor, value.data_ptr(), dx.data_ptr(), dy.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return value, dx, dy


def _scale_rows(like: Tensor, y: Tensor, grad: Tensor, shift: int, also_shift: int | None) -> Tensor:
    """Compute grad_i * y_(i + shift), plus grad_(i + also_shift) * y_(i + also_shift)."""
    y = rows_of(y)
    out = torch.empty(like.shape, dtype=like.dtype, device="cpu")
    _C.scale_rows(
        CODES[y.dtype], y.data_ptr(), y.stride(0), y.shape[0], y.shape[1], shift, grad.data_ptr(),
        int(also_shift is not None), also_shift or 0, like.shape[0], out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out
