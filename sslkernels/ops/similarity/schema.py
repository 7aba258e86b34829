# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the similarity family: sums over all pairs of rows, and their gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

SIMILARITY = family("similarity", kernels=("cpu", "triton"))


class Pairs(NamedTuple):
    """Stand for the logits scale * <x_i, y_j> of all pairs except those left out."""

    x: Tensor  # (N, D)
    y: Tensor | None  # (M, D), or None for x itself
    scale: Tensor  # (), in the dtype of sums
    exclude: Tensor | None  # (N, E): row i leaves out these columns; -1 for none


class Sums(NamedTuple):
    """Hold log-sum-exps of the logits' rows and columns, and the gradient of each; None if there is no gradient."""

    rows: Tensor | None  # (N,)
    rows_grad: Tensor | None
    cols: Tensor | None  # (M,)
    cols_grad: Tensor | None


@SIMILARITY.op(scratch=("kept",))
def forward(
    pairs: Pairs, columns: bool, attend: bool, kept: Tensor | None, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exps of rows and of columns, and softmax(logits) @ y; those not asked for are empty."""
    x, y, _, _ = pairs
    n, m, dtype = x.shape[0], (x if y is None else y).shape[0], wide(x.dtype)
    return (
        x.new_empty((n,), dtype=dtype),
        x.new_empty((m if columns else 0,), dtype=dtype),
        x.new_empty((n, x.shape[1]) if attend else (0,), dtype=dtype),
    )


@SIMILARITY.op
def backward(
    pairs: Pairs, sums: Sums, kept: Tensor | None, need_x: bool, need_y: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dx, dy and dscale; those not asked for are empty."""
    x, y, _, _ = pairs
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape)) if need_y and y is not None else x.new_empty(0),
        x.new_empty((), dtype=wide(x.dtype)),
    )
