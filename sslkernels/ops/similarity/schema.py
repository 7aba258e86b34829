# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the similarity family: sums over all pairs of rows, their gradients, and losses made of both.

`contrast` is a whole loss with its gradient, for one process. The others are its parts: several ranks exchange rows and
weights between them, and backends that fuse less are composed of them (composed.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
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


class Positives(NamedTuple):
    """Match row i of x with row ``(i + shift) mod M`` of y; its logit is the scaled product."""

    x: Tensor  # (N, D)
    y: Tensor  # (M, D), N <= M
    shift: int
    scale: Tensor  # ()


class Moved(NamedTuple):
    """Hold what moves rows: the sums over their negatives of weight * negative."""

    x: Tensor  # (N, D), as they were multiplied
    moved: Tensor  # (N, D), in the dtype of sums
    scale: Tensor  # ()
    norms: Tensor | None  # (N,), of the rows as they were given; None if they were multiplied as given


class Anchors(NamedTuple):
    """Hold rows that match, row i of x with row i of y, and say what each is compared with.

    ``against`` is "itself" for all other rows of both, "both" for the rows of the other, "rows" for those of y alone,
    where y's rows are no anchors, and "queue" for the negatives.
    """

    x: Tensor  # (N, D)
    y: Tensor  # (N, D)
    negatives: Tensor | None  # (M, D) in ``dtype``, as given
    scale: Tensor  # ()
    against: str
    unit: bool  # True divides x and y by their norms
    frozen: bool  # no key requires a gradient, which makes way for a flash pass
    dtype: torch.dtype  # rows are rounded to this before they are multiplied


class Needs(NamedTuple):
    """Say which gradients are wanted."""

    need_x: bool
    need_y: bool
    need_negatives: bool
    need_scale: bool


@SIMILARITY.op
def forward(pairs: Pairs, columns: bool, attend: bool, backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-sum-exps of rows and of columns, and softmax(logits) @ y; those not asked for are empty."""
    x, y, _, _ = pairs
    n, m, dtype = x.shape[0], (x if y is None else y).shape[0], wide(x.dtype)
    return (
        x.new_empty((n,), dtype=dtype),
        x.new_empty((m if columns else 0,), dtype=dtype),
        x.new_empty((n, x.shape[1]) if attend else (0,), dtype=dtype),
    )


@SIMILARITY.op
def backward(pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, backend: str) -> tuple[Tensor, Tensor]:
    """Return the sums of weight * y over columns, and of weight * x over rows; those not asked for are empty.

    They are the gradients but for the scale, in the dtype of sums. Where y is x, the first holds both.
    """
    x, y, _, _ = pairs
    dtype = wide(x.dtype)
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,), dtype=dtype),
        y.new_empty(tuple(y.shape), dtype=dtype) if need_y and y is not None else x.new_empty(0, dtype=dtype),
    )


@SIMILARITY.op
def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Turn log-sum-exps of negatives into share * sum_i softplus(lse_i - p_i), and the weights of its gradient.

    Return the value; the gradients of rows and of cols (N,); minus that of the positives' logits; and its sum over the
    logits, times minus one over the scale. With cols the loss is the mean of both directions, else they are empty.
    """
    none = rows.new_empty(0)
    return (
        rows.new_empty(()),
        torch.empty_like(rows),
        none if cols is None else torch.empty_like(cols),
        torch.empty_like(rows),
        rows.new_empty(()),
    )


@SIMILARITY.op
def finish(
    rows: Moved, partners: Tensor | None, shift: int, pull: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the rows as they were given (N, D), and the sum of <x, moved>, a part of the scale's.

    Row i was pulled to partner ``(i + shift) mod M`` by ``pull[i]``, unless pull is None.
    """
    return torch.empty_like(rows.moved), rows.moved.new_empty(())


@SIMILARITY.op
def contrast(anchors: Anchors, mean: bool, needs: Needs, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the mean or sum of the anchors' losses softplus(lse of negatives - logit of the positive), and gradients.

    These are those of x, y, negatives and scale, in the dtype of sums; those not asked for are empty.
    """
    x, y, negatives, scale, *_ = anchors
    dtype = wide(x.dtype)

    def gradient(of: Tensor | None, need: bool) -> Tensor:
        return x.new_empty(tuple(of.shape) if need and of is not None else (0,), dtype=dtype)

    return (
        x.new_empty((), dtype=dtype),
        gradient(x, needs.need_x),
        gradient(y, needs.need_y),
        gradient(negatives, needs.need_negatives),
        gradient(scale, needs.need_scale),
    )
