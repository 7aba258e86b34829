# SPDX-License-Identifier: Apache-2.0
"""Run the correlation family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.correlation.schema import Coefficients, Columns, Energy, Formula, Products, Scaling
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, pointer, rows_of

# `Energy` in csrc/cpu/correlation/kernels.h has the same numbers.
ENERGIES = {"none": 0, "cross": 1, "each": 2}


def loss(
    z0: Tensor, z1: Tensor | None, scaling: Scaling, energy: Energy, formula: Formula, need0: bool, need1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    views = _views(z0, z1)
    (n, d), dtype = z0.shape, wide(z0.dtype)
    value = torch.empty((), dtype=dtype, device="cpu")
    out = [torch.empty((n, d) if need else (0,), dtype=dtype, device="cpu") for need in (need0, need1)]
    _C.correlation_loss(
        CODES[z0.dtype], CODES[energy.dtype], _pair([z.data_ptr() for z in views]), _pair([z.stride(0) for z in views]),
        n, d, ENERGIES[energy.kind], energy.side == "samples", scaling.eps is not None, scaling.unbiased,
        scaling.outside, scaling.eps or 0.0, formula.agreement, formula.gap, formula.hinge, formula.hinge_eps,
        formula.off, formula.power, value.data_ptr(),
        (out[0].data_ptr() if need0 else 0, out[1].data_ptr() if need1 else 0), torch.get_num_threads(),
    )  # fmt: skip
    return value, out[0], out[1]


def moments(z0: Tensor, z1: Tensor | None, centre: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    views = _views(z0, z1)
    (n, d), dtype = z0.shape, wide(z0.dtype)
    mean, squares = (
        torch.empty((len(views), 2, d), dtype=dtype, device="cpu"),
        torch.empty((len(views), d), dtype=torch.float64, device="cpu"),
    )
    products = torch.empty(d if z1 is not None else 0, dtype=torch.float64, device="cpu")
    gap = torch.empty((), dtype=torch.float64, device="cpu")
    if n == 0:
        return mean.zero_(), squares.zero_(), products.zero_(), gap.zero_()
    second = views[-1]
    _C.correlation_moments(
        CODES[z0.dtype], views[0].data_ptr(), views[0].stride(0), second.data_ptr() if len(views) == 2 else 0,
        second.stride(0), n, d, centre, mean.data_ptr(), squares.data_ptr(), products.data_ptr(), gap.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return mean, squares, products, gap


def matrix(columns: Columns, products: Products) -> Tensor:
    (z0, z1, mean, scale), (cross, side, dtype, first, count) = columns, products
    views = _views(z0, z1)
    (n, d), threads = z0.shape, torch.get_num_threads()
    means, scales = _each(mean), _each(scale)
    if side == "samples":
        out = torch.empty((len(views), count, n), dtype=wide(z0.dtype), device="cpu")
        for z, k, at_mean, at_scale in zip(views, out, means, scales, strict=False):
            if count:
                _C.correlation_samples(
                    CODES[z.dtype], z.data_ptr(), z.stride(0), n, d, at_mean, at_scale, first, count, k.data_ptr(),
                    threads,
                )  # fmt: skip
        return out
    pairs = [(0, 1)] if cross else [(view, view) for view in range(len(views))]
    out = torch.empty((len(pairs), d, d), dtype=wide(z0.dtype), device="cpu")
    for (i, j), c in zip(pairs, out, strict=True):
        _C.correlation_features(
            CODES[z0.dtype], CODES[dtype], views[i].data_ptr(), views[i].stride(0), means[i], scales[i],
            views[j].data_ptr(), views[j].stride(0), means[j], scales[j], i == j, n, d, c.data_ptr(), threads,
        )  # fmt: skip
    return out


def energies(matrix: Tensor, other: Tensor, cross: bool, side: str) -> Tensor:
    code, (views, n, m), threads = CODES[matrix.dtype], matrix.shape, torch.get_num_threads()
    if side == "samples":
        out = torch.empty((1 if cross else views, 1), dtype=torch.float64, device="cpu")
        for view, total in enumerate(out):
            x, y = (matrix[0], matrix[1]) if cross else (matrix[view], matrix[view])
            _C.correlation_energies(code, x.data_ptr(), y.data_ptr(), n, m, 0, 0, total.data_ptr(), threads)
        return out
    out = torch.empty((2 if cross else views, m), dtype=torch.float64, device="cpu")
    for view in range(views):
        _C.correlation_energies(
            code, matrix[view].data_ptr(), other[view].data_ptr(), n, m, out[view].data_ptr(),
            out[1].data_ptr() if cross else 0, 0, threads,
        )  # fmt: skip
    return out


def backward(
    columns: Columns,
    matrix: Tensor | None,
    products: Products,
    coefficients: Coefficients,
    need0: bool,
    need1: bool,
    gradient_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    (z0, z1, mean, scale), (cross, side, compute, first, count) = columns, products
    outer, own, mixed, pull, through = coefficients
    views = _views(z0, z1)
    (n, d), samples = z0.shape, side == "samples"
    out = [torch.empty((count, d) if need else (0,), dtype=gradient_dtype, device="cpu") for need in (need0, need1)]
    if count == 0 or not (need0 or need1):
        return out[0], out[1]
    matrices = (0, 0)
    if matrix is not None:
        each = _each(matrix)
        matrices = (each[1], each[0]) if cross and samples else (each[0], each[0]) if cross else each
    _C.correlation_backward(
        CODES[z0.dtype], CODES[compute], _pair([z.data_ptr() for z in views]), _pair([z.stride(0) for z in views]),
        _each(mean), _each(scale), n, d, first, count, samples, cross, matrices,
        pointer(outer), pointer(own), pointer(mixed), pointer(through), 0.0 if pull is None else float(pull),
        gradient_dtype == wide(z0.dtype),
        (out[0].data_ptr() if need0 else 0, out[1].data_ptr() if need1 else 0), torch.get_num_threads(),
    )  # fmt: skip
    return out[0], out[1]


def _views(z0: Tensor, z1: Tensor | None) -> list[Tensor]:
    if z1 is not None and z1.dtype != z0.dtype:
        raise TypeError(f"z0 has dtype {z0.dtype} and z1 {z1.dtype}; the kernels read both alike.")
    return [rows_of(z) for z in (z0, z1) if z is not None]


def _each(x: Tensor | None) -> tuple[int, int]:
    """Return the addresses of the first two parts of x, and 0 for a part that does not exist."""
    if x is None:
        return 0, 0
    return x[0].data_ptr(), x[1].data_ptr() if x.shape[0] > 1 else 0


def _pair(values: list[int]) -> tuple[int, int]:
    return values[0], values[1] if len(values) == 2 else 0
