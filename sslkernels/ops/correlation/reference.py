# SPDX-License-Identifier: Apache-2.0
"""Run the correlation family in plain PyTorch: the specification of every other backend, and a backend of its own.

Views are z0 (N, D) and perhaps z1. A mean has two parts, (V, 2, D): the rounded mean, and the rest that rounding left.
Without the rest, columns far from zero would not be centred. Columns a = (z - mean) * scale are rounded to ``dtype``
before products, as torch.mm would find them, and summed in fp32 (fp64 for fp64 rows); on the side of samples ``dtype``
is that of the sums. Squares are summed in fp64, because the square of an fp32 number may overflow fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.correlation import composed
from sslkernels.ops.correlation.schema import Coefficients, Columns, Energy, Formula, Products, Scaling
from sslkernels.ops.dtypes import wide, widened


def loss(
    z0: Tensor, z1: Tensor | None, scaling: Scaling, energy: Energy, formula: Formula, need0: bool, need1: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss and the gradients of both views' rows, or empty ones where they are not needed."""
    alone = composed.Where(Shard.alone, True, "reference")
    return composed.loss(z0, z1, scaling, energy, formula, need0, need1, alone)


def moments(z0: Tensor, z1: Tensor | None, centre: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return means (V, 2, D), sums of squares about them (V, D), sums of products, and the sum of (z0 - z1)^2 ().

    Products are (D,), or (0,) for one view. All but the means are fp64. Without ``centre`` the means are zero.
    """
    views = [z.double() for z in (z0, z1) if z is not None]
    # We subtract the first row first, so that the squares of a constant column are exactly zero.
    pivots = torch.stack([z[0] if centre and len(z) else z.new_zeros(z.shape[1]) for z in views])
    moved = [z - pivot for z, pivot in zip(views, pivots, strict=True)]
    means = torch.stack([z.sum(0) / max(len(z), 1) if centre else z.new_zeros(z.shape[1]) for z in moved])
    centred = [z - mean for z, mean in zip(moved, means, strict=True)]
    squares = torch.stack([z.square().sum(0) for z in centred])
    rounded = (pivots + means).to(wide(z0.dtype))
    pairs = torch.stack([rounded, ((pivots - rounded) + means).to(rounded.dtype)], 1)
    if z1 is None:
        return pairs, squares, squares.new_empty(0), squares.new_zeros(())
    return pairs, squares, (centred[0] * centred[1]).sum(0), (views[0] - views[1]).square().sum()


def matrix(columns: Columns, products: Products) -> Tensor:
    """Multiply columns.

    On the side of samples: rows ``first`` to ``first + count`` of a a^T for each view (V, count, N).
    On the side of features: a^T b (1, D, D) if ``cross``, else a^T a for each view (V, D, D).
    """
    cross, side, dtype, first, count = products
    rounded = _rounded(columns, dtype)
    if side == "samples":
        return torch.stack([a[first : first + count] @ a.T for a in rounded])
    if cross:
        return (rounded[0].T @ rounded[1])[None]
    return torch.stack([a.T @ a for a in rounded])


def energies(matrix: Tensor, other: Tensor, cross: bool, side: str) -> Tensor:
    """Sum products of matrices, in fp64.

    On the side of samples: <K0, K1> (1, 1) if ``cross``, else <K, K> for each view (V, 1).
    On the side of features, without the diagonal: sums of matrix * other for each row, and if ``cross`` also for each
    column (2, D); else those for each row of each view (V, D).
    """
    if side == "samples":
        products = matrix[:1].double() * matrix[1:].double() if cross else matrix.double().square()
        return products.sum((1, 2))[:, None]
    products = matrix.double() * other.double()
    products.diagonal(dim1=1, dim2=2).zero_()
    return torch.stack([products[0].sum(1), products[0].sum(0)]) if cross else products.sum(2)


def backward(
    columns: Columns,
    matrix: Tensor | None,
    products: Products,
    coefficients: Coefficients,
    need0: bool,
    need1: bool,
    gradient_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Compute the gradient of each view's rows in ``gradient_dtype``:

    dz = outer * da + (own + through * sum_n(da a)) * a + mixed * b + pull * (z - z'), where a are the columns of this
    view, b those of the other, and z' its rows. Coefficients are (V, D), except pull, which is ().

    On the side of samples da = K a, with the K of the other view if ``cross``. On the side of features da is off(C)
    applied to the other view if ``cross``, else to this one. None stands for a term that is absent; dz = da without
    ``outer``.
    """
    cross, side, compute, first, count = products
    outer, own, mixed, pull, through = coefficients
    views = [z for z in columns[:2] if z is not None]
    rows = slice(first, first + count)
    gradients = []
    for view, (z, needed) in enumerate(zip(views, (need0, need1), strict=False)):
        if not needed:
            gradients.append(z.new_empty(0, dtype=gradient_dtype))
            continue
        dz: Tensor | float = 0.0
        weights = own[view] if own is not None else None
        if matrix is not None:
            rounded = _rounded(columns, compute)
            if side == "samples":
                da = matrix[1 - view if cross else view] @ rounded[view]
            else:
                off = matrix[0 if cross else view].clone()
                off.fill_diagonal_(0)
                da = rounded[1 - view if cross else view] @ (off if view else off.T)
                da = da[rows]
            dz = da if outer is None else da * outer[view]
            if through is not None and weights is not None:
                weights = weights + through[view] * (da * rounded[view][rows]).sum(0)
        if weights is not None:
            exact = [a[rows] for a in _rounded(columns, wide(z.dtype))]
            dz = dz + weights * exact[view]
            if mixed is not None:
                dz = dz + mixed[view] * exact[1 - view]
            if len(views) == 2 and pull is not None:
                dz = dz + pull * (widened(z) - widened(views[1 - view]))[rows]
        assert isinstance(dz, Tensor)
        gradients.append(dz.to(gradient_dtype))
    return gradients[0], gradients[1] if len(gradients) == 2 else columns.z0.new_empty(0, dtype=gradient_dtype)


def _rounded(columns: Columns, dtype: torch.dtype) -> list[Tensor]:
    """Return a and b, rounded to ``dtype`` and converted back to the dtype of sums."""
    views = [widened(z) for z in columns[:2] if z is not None]
    if columns.mean is not None:
        views = [_centred(z, middle) for z, middle in zip(views, columns.mean, strict=True)]
    if columns.scale is not None:
        views = [z * factor for z, factor in zip(views, columns.scale, strict=True)]
    return [a.to(dtype).to(a.dtype) for a in views]


def _centred(z: Tensor, mean: Tensor) -> Tensor:
    return (z - mean[0]) - mean[1]
