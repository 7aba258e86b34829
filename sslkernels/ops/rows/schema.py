# SPDX-License-Identifier: Apache-2.0
"""The ops of the rows family: unit rows, products of matching rows, and their cosines."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

ROWS = family("rows", kernels=("cpu", "triton"))


class Matched(NamedTuple):
    """Row i of x belongs to row i of y; norms count as ``eps`` at least."""

    x: Tensor  # (N, D)
    y: Tensor  # (N, D)
    eps: float


@ROWS.op
def unit_forward(z0: Tensor, z1: Tensor | None, dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
    """Unit rows (N0 + N1, D) in ``dtype``, z0's first, and their norms."""
    n = z0.shape[0] + (0 if z1 is None else z1.shape[0])
    return z0.new_empty((n, z0.shape[1]), dtype=dtype), z0.new_empty((n,), dtype=wide(z0.dtype))


@ROWS.op
def unit_backward(
    unit: Tensor, norms: Tensor, grad: Tensor, n0: int, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of z0, the first ``n0`` rows, and of z1, in ``dtype``."""
    n, d = unit.shape
    return unit.new_empty((n0, d), dtype=dtype), unit.new_empty((n - n0, d), dtype=dtype)


@ROWS.op
def dot_forward(x: Tensor, y: Tensor | None, shift: int, backend: str) -> Tensor:
    """Products (N,) of row i of x with row i + shift of y."""
    return x.new_empty((x.shape[0],), dtype=wide(x.dtype))


@ROWS.op
def dot_backward(
    x: Tensor, y: Tensor | None, shift: int, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and y; where y is x both are in the first."""
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape)) if need_y and y is not None else x.new_empty(0),
    )


@ROWS.op
def cosine_forward(rows: Matched, backend: str) -> tuple[Tensor, Tensor]:
    """Cosines (N,), and the norms (2, N) of both sides."""
    n, dtype = rows.x.shape[0], wide(rows.x.dtype)
    return rows.x.new_empty((n,), dtype=dtype), rows.x.new_empty((2, n), dtype=dtype)


@ROWS.op
def cosine_backward(
    rows: Matched, cosines: Tensor, norms: Tensor, grad: Tensor, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of x and y; empty where they are not asked for."""
    x, y, _ = rows
    return x.new_empty(tuple(x.shape) if need_x else (0,)), y.new_empty(tuple(y.shape) if need_y else (0,))
