# SPDX-License-Identifier: Apache-2.0
"""The similarity family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.launch import CODES, pointer, rows_of


def forward(
    x: Tensor, y: Tensor | None, scale: Tensor, exclude: Tensor | None, columns: bool, attend: bool, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    x, y, exclude = rows_of(x), None if y is None else _keys(x, y), None if exclude is None else exclude.contiguous()
    keys = x if y is None else y
    n, m, d = x.shape[0], keys.shape[0], x.shape[1]
    wide = _wide(x)
    rows = torch.empty(n, dtype=wide, device="cpu")
    column_sums = torch.empty(m if columns else 0, dtype=wide, device="cpu")
    attended = torch.empty((n, d) if attend else (0,), dtype=wide, device="cpu")
    _C.similarity_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), n, keys.data_ptr(), keys.stride(0), m, y is None, d,
        float(scale), 0 if exclude is None else exclude.data_ptr(), 0 if exclude is None else exclude.shape[1],
        pointer(kept), 0 if kept is None else kept.nbytes,
        rows.data_ptr(), column_sums.data_ptr() if columns else 0, attended.data_ptr() if attend else 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return rows, column_sums, attended


def backward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    x, y, exclude = rows_of(x), None if y is None else _keys(x, y), None if exclude is None else exclude.contiguous()
    keys = x if y is None else y
    dx = torch.empty(x.shape, dtype=x.dtype, device="cpu")
    dy = torch.empty(keys.shape if need_y and y is not None else (0,), dtype=x.dtype, device="cpu")
    dscale = torch.empty((), dtype=_wide(x), device="cpu")
    if x.shape[0] == 0 or keys.shape[0] == 0:  # empty tensors have no address, which stands for "not wanted"
        return (dx.zero_() if need_x else dx.new_empty(0)), dy.zero_(), dscale.zero_()
    _C.similarity_backward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], keys.data_ptr(), keys.stride(0),
        keys.shape[0], y is None, x.shape[1], float(scale),
        0 if exclude is None else exclude.data_ptr(), 0 if exclude is None else exclude.shape[1], pointer(kept),
        0 if kept is None else kept.nbytes, pointer(rows), pointer(rows_grad), pointer(cols), pointer(cols_grad),
        dx.data_ptr(), dy.data_ptr() if dy.numel() else 0, dscale.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return (dx if need_x else dx.new_empty(0)), dy, dscale


def unit_rows_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    n0, d = z0.shape
    n = n0 + (0 if z1 is None else z1.shape[0])
    unit = torch.empty((n, d), dtype=dtype, device="cpu")
    norms = torch.empty(n, dtype=_wide(z0), device="cpu")
    for part, start in ((z0, 0), (z1, n0)):
        if part is not None:
            part = rows_of(part)
            _C.unit_rows_forward(
                CODES[part.dtype], part.data_ptr(), part.stride(0), part.shape[0], d, CODES[dtype],
                unit.data_ptr() + start * d * unit.element_size(), norms.data_ptr() + start * norms.element_size(),
                torch.get_num_threads(),
            )  # fmt: skip
    return unit, norms


def unit_rows_backward(unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
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


def row_dot_forward(x: Tensor, y: Tensor | None, shift: int) -> Tensor:
    x, y = rows_of(x), _keys(x, x if y is None else y)
    out = torch.empty(x.shape[0], dtype=_wide(x), device="cpu")
    _C.row_dot_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), y.shape[0], x.shape[1],
        shift, out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def row_dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    if y is None:  # every row gives to its partner and receives from the row that names it: both in one pass
        return _scale_rows(x, x, grad, shift, -shift), x.new_empty(0)
    dx = _scale_rows(x, y, grad, shift, None) if need_x else x.new_empty(0)
    if not need_y:
        return dx, x.new_empty(0)
    if x.shape[0] == y.shape[0]:
        return dx, _scale_rows(y, x, grad.roll(shift), -shift, None)
    dy = torch.zeros(y.shape, dtype=y.dtype, device="cpu")
    index = (torch.arange(x.shape[0], device="cpu") + shift) % y.shape[0]
    return dx, dy.index_copy_(0, index, _scale_rows(x, x, grad, 0, None))


def row_cosine_forward(x: Tensor, y: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    x, y = rows_of(x), _keys(x, y)
    n, d = x.shape
    cosines, norms = torch.empty(n, dtype=_wide(x), device="cpu"), torch.empty((2, n), dtype=_wide(x), device="cpu")
    _C.row_cosine_forward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n, d, eps,
        cosines.data_ptr(), norms.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return cosines, norms


def row_cosine_backward(
    x: Tensor, y: Tensor, cosines: Tensor, norms: Tensor, grad: Tensor, eps: float, need_x: bool, need_y: bool
) -> tuple[Tensor, Tensor]:
    x, y = rows_of(x), _keys(x, y)
    n, d = x.shape
    dx, dy = (torch.empty((n, d) if need else (0,), dtype=x.dtype, device="cpu") for need in (need_x, need_y))
    _C.row_cosine_backward(
        CODES[x.dtype], x.data_ptr(), x.stride(0), y.data_ptr(), y.stride(0), n, d, eps, cosines.data_ptr(),
        norms.data_ptr(), grad.data_ptr(), grad.stride(0), dx.data_ptr(), dy.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return dx, dy


def _scale_rows(like: Tensor, y: Tensor, grad: Tensor, shift: int, also_shift: int | None) -> Tensor:
    """grad_i * y_(i + shift), plus grad_(i + also_shift) * y_(i + also_shift)."""
    y = rows_of(y)
    out = torch.empty(like.shape, dtype=like.dtype, device="cpu")
    _C.scale_rows(
        CODES[y.dtype], y.data_ptr(), y.stride(0), y.shape[0], y.shape[1], shift, grad.data_ptr(),
        int(also_shift is not None), also_shift or 0, like.shape[0], out.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def _keys(x: Tensor, y: Tensor) -> Tensor:
    """Rows that the kernel will read as it reads those of x."""
    if y.dtype != x.dtype:
        raise TypeError(f"x has dtype {x.dtype} and y {y.dtype}; the kernels read both alike.")
    return rows_of(y)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
