# SPDX-License-Identifier: Apache-2.0
"""The ops of the correlation family: moments of columns, their products, the energies of those, and the gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

CORRELATION = family("correlation", kernels=("cpu", "triton"))


class Columns(NamedTuple):
    """The columns a = (z0 - mean) * scale, and likewise b of z1, of one view or two (V)."""

    z0: Tensor  # (N, D)
    z1: Tensor | None
    mean: Tensor | None  # (V, 2, D): rounded, and what rounding left; None for columns as they are
    scale: Tensor | None  # (V, D)


class Products(NamedTuple):
    """Which products of columns are taken: each view with itself, or the two with each other where ``cross``."""

    cross: bool
    side: str  # "samples": N x N, ``rows`` of its rows from ``first`` on; "features": D x D
    dtype: torch.dtype  # what columns are rounded to before they are multiplied
    first: int
    rows: int


class Coefficients(NamedTuple):
    """What the terms of a gradient are multiplied by, (V, D) but for ``pull``; None for a term that is not there."""

    outer: Tensor | None  # of the products' gradient
    own: Tensor | None  # of the column itself
    mixed: Tensor | None  # of the other view's column
    pull: Tensor | None  # (): of the difference of the views
    through: Tensor | None  # of the column, times the sum of the products' gradient along it


@CORRELATION.op
def moments(z0: Tensor, z1: Tensor | None, centre: bool, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means (V, 2, D), sums of squares about them (V, D), of products (D,) or (0,), and of (z0 - z1)^2 ()."""
    views, d, dtype = 1 if z1 is None else 2, z0.shape[1], wide(z0.dtype)
    return (
        z0.new_empty((views, 2, d), dtype=dtype),
        z0.new_empty((views, d), dtype=torch.float64),
        z0.new_empty((d if views == 2 else 0,), dtype=torch.float64),
        z0.new_empty((), dtype=torch.float64),
    )


@CORRELATION.op
def matrix(columns: Columns, products: Products, backend: str) -> Tensor:
    """(V, rows, N) on the side of samples; (V, D, D), or (1, D, D) where crossed, on that of features."""
    z0, z1, _, _ = columns
    (n, d), views = z0.shape, 1 if z1 is None else 2
    shape = (views, products.rows, n) if products.side == "samples" else (1 if products.cross else views, d, d)
    return z0.new_empty(shape, dtype=wide(z0.dtype))


@CORRELATION.op
def energies(matrix: Tensor, other: Tensor, cross: bool, side: str, backend: str) -> Tensor:
    """Sums of matrix * other: (V, 1) or (1, 1) of samples; (V, D) or (2, D) of features, without the diagonal."""
    if side == "samples":
        return matrix.new_empty((1 if cross else matrix.shape[0], 1), dtype=torch.float64)
    return matrix.new_empty((2 if cross else matrix.shape[0], matrix.shape[1]), dtype=torch.float64)


@CORRELATION.op
def backward(
    columns: Columns,
    matrix: Tensor | None,
    products: Products,
    coefficients: Coefficients,
    need0: bool,
    need1: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """The gradients of z0 and z1, (rows, D) each; empty where they are not asked for."""
    shape = (products.rows, columns.z0.shape[1])
    return (
        columns.z0.new_empty(shape if need0 else (0,)),
        columns.z0.new_empty(shape if need1 else (0,)),
    )
