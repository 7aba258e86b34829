# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the rows family: unit rows, products of matching rows, and their cosines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

ROWS = family("rows", kernels=("cpu", "triton"))


class Matched(NamedTuple):
    """Match row i of x with row i of y; norms count as at least ``eps``."""

    x: Tensor  # (N, D)
    y: Tensor  # (N, D)
    eps: float


class CosineLoss(NamedTuple):
    """Sum ``ranks / divisor (offset - weight * cosine)`` over matching rows; see `Matched`."""

    x: Tensor
    y: Tensor
    eps: float
    offset: int
    weight: int
    ranks: int
    divisor: int  # the rows of all ranks for a mean, 1 for a sum


@ROWS.op
def unit_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    """Return unit rows (N0 + N1, D) in ``dtype``, those of z0 first, and their norms."""
    n = z0.shape[0] + (0 if z1 is None else z1.shape[0])
    return z0.new_empty((n, z0.shape[1]), dtype=dtype), z0.new_empty((n,), dtype=wide(z0.dtype))


@ROWS.op
def unit_backward(
    unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of z0, which has the first ``n0`` rows, and of z1, in ``dtype``."""
    n, d = unit.shape
    return unit.new_empty((n0, d), dtype=dtype), unit.new_empty((n - n0, d), dtype=dtype)


@ROWS.op
def dot_forward(x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
    """Return the products (N,) of row i of x and row i + shift of y."""
    return x.new_empty((x.shape[0],), dtype=wide(x.dtype))


@ROWS.op
def dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and y; where y is x, the first holds both."""
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape)) if need_y and y is not None else x.new_empty(0),
    )


@ROWS.op
def cosine_forward(rows: Matched, backend: str) -> tuple[Tensor, Tensor]:
    """Return the cosines (N,), and the norms (2, N) of both sides."""
    n, dtype = rows.x.shape[0], wide(rows.x.dtype)
    return rows.x.new_empty((n,), dtype=dtype), rows.x.new_empty((2, n), dtype=dtype)


@ROWS.op
def cosine_backward(
    rows: Matched, cosines: Tensor, norms: Tensor, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and y; those not asked for are empty."""
    x, y, _ = rows
    return x.new_empty(tuple(x.shape) if need_x else (0,)), y.new_empty(tuple(y.shape) if need_y else (0,))


@ROWS.op
def cosine_loss(loss: CosineLoss, need_x: bool, need_y: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the value () and the gradients of x and y, in the dtype of sums; those not asked for are empty."""
    x, y, *_ = loss
    dtype = wide(x.dtype)
    return (
        x.new_empty((), dtype=dtype),
        x.new_empty(tuple(x.shape) if need_x else (0,), dtype=dtype),
        y.new_empty(tuple(y.shape) if need_y else (0,), dtype=dtype),
    )
