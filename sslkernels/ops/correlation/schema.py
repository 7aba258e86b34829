# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the correlation family: a whole loss, and its steps, of which other functions are made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

CORRELATION = family("correlation", kernels=("cpu", "triton"))


class Scaling(NamedTuple):
    """Say how to standardise columns: divide by sqrt(variance + eps), or if ``outside`` by sqrt(variance) + eps.

    A divisor of 0, which only a column of zeros has, counts as 1. If eps is None, columns stay as they are.
    """

    eps: float | None
    unbiased: bool = False
    outside: bool = False


class Energy(NamedTuple):
    """Say whose energy off the diagonal is asked for, and how to compute it."""

    kind: str  # "cross" of a^T b, "each" of a^T a and b^T b, or "none"
    side: str  # "samples": by N x N matrices; "features": by D x D matrices
    dtype: torch.dtype  # columns are rounded to this before they are multiplied


class Formula(NamedTuple):
    """Hold the weights of a loss's terms.

    agreement sum_j (1 - diagonal_j / N)^2  +  gap mean (z0 - z1)^2  +  off sum_v off_v / (M^2 D^power)
    + hinge sum_v mean_j max(0, 1 - sqrt(squares_vj / (N - 1) + hinge_eps))

    M is N if columns are standardised, and N - 1 if not. Only crossed views have a diagonal, and only two have a gap.
    """

    agreement: float = 0.0
    gap: float = 0.0
    off: float = 0.0
    power: int = 0
    hinge: float = 0.0
    hinge_eps: float = 0.0


class Columns(NamedTuple):
    """Hold the columns a = (z0 - mean) * scale, and likewise b of z1; there are V views, one or two."""

    z0: Tensor  # (N, D)
    z1: Tensor | None
    mean: Tensor | None  # (V, 2, D): the rounded mean, and the rest that rounding left; None leaves columns as they are
    scale: Tensor | None  # (V, D)


class Products(NamedTuple):
    """Say which columns to multiply: those of each view with themselves, or if ``cross`` the two views' together."""

    cross: bool
    side: str  # "samples": N x N, ``rows`` of its rows from ``first`` on; "features": D x D
    dtype: torch.dtype  # columns are rounded to this before they are multiplied
    first: int
    rows: int


class Coefficients(NamedTuple):
    """Hold the factors of a gradient's terms, (V, D) except ``pull``; None stands for a term that is absent."""

    outer: Tensor | None  # multiplies the products' gradient
    own: Tensor | None  # multiplies the column itself
    mixed: Tensor | None  # multiplies the other view's column
    pull: Tensor | None  # (): multiplies the difference of the views
    through: Tensor | None  # multiplies the column, times the sum of the products' gradient along it


@CORRELATION.op
def loss(
    z0: Tensor,
    z1: Tensor | None,
    scaling: Scaling,
    energy: Energy,
    formula: Formula,
    need0: bool,
    need1: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a loss of the moments, and the gradients of z0 and z1 in the dtype of sums; see `backward`."""
    dtype = wide(z0.dtype)
    return (
        z0.new_empty((), dtype=dtype),
        z0.new_empty(z0.shape if need0 else (0,), dtype=dtype),
        z0.new_empty(z0.shape if need1 else (0,), dtype=dtype),
    )


@CORRELATION.op
def moments(z0: Tensor, z1: Tensor | None, centre: bool, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return means (V, 2, D), and sums: of squares about them (V, D), products (D,) or (0,), and (z0 - z1)^2 ()."""
    views, d, dtype = 1 if z1 is None else 2, z0.shape[1], wide(z0.dtype)
    return (
        z0.new_empty((views, 2, d), dtype=dtype),
        z0.new_empty((views, d), dtype=torch.float64),
        z0.new_empty((d if views == 2 else 0,), dtype=torch.float64),
        z0.new_empty((), dtype=torch.float64),
    )


@CORRELATION.op
def matrix(columns: Columns, products: Products, backend: str) -> Tensor:
    """Return (V, rows, N) on the side of samples; on that of features (1, D, D) if crossed, else (V, D, D)."""
    z0, z1, _, _ = columns
    (n, d), views = z0.shape, 1 if z1 is None else 2
    shape = (views, products.rows, n) if products.side == "samples" else (1 if products.cross else views, d, d)
    return z0.new_empty(shape, dtype=wide(z0.dtype))


@CORRELATION.op
def energies(matrix: Tensor, other: Tensor, cross: bool, side: str, backend: str) -> Tensor:
    """Sum matrix * other: (V, 1) or (1, 1) for samples; (V, D) or (2, D) for features, without the diagonal."""
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
    gradient_dtype: torch.dtype,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of z0 and z1 (rows, D) each; those not asked for are empty.

    Their dtype is that of the rows, or of sums.
    """
    shape = (products.rows, columns.z0.shape[1])
    return (
        columns.z0.new_empty(shape if need0 else (0,), dtype=gradient_dtype),
        columns.z0.new_empty(shape if need1 else (0,), dtype=gradient_dtype),
    )
