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
    """Stand for the logits scale * <x_i, y_j> + bias_j of all pairs except those left out.

    They are left out by the table ``exclude``; on diagonals, of which ``views`` says how many; and by labels. With
    diagonals, row i leaves out the columns ``start + (first + i) mod step + k * step`` for k < views. Where the rows of
    x are so many views of the same things, one view after another, and are rows ``start`` to ``start + N`` of y too,
    these are itself and its other views, N / views rows apart.
    """

    x: Tensor  # (N, D)
    y: Tensor | None  # (M, D), or None for x itself
    scale: Tensor  # (), in the dtype of sums
    exclude: Tensor | None  # (N, E): row i leaves out these columns; -1 for none
    start: int = 0
    views: int = 0
    first: int = 0
    step: int = 0
    bias: Tensor | None = None  # (M,), in the dtype of sums; y is given then
    row_labels: Tensor | None = None  # (N,)
    col_labels: Tensor | None = None  # (M,); x itself has those of its rows
    alike: bool = True  # pairs whose labels are equal are left out, or those whose labels are not

    @staticmethod
    def of_views(x: Tensor, y: Tensor | None, scale: Tensor, start: int, views: int) -> Pairs:
        """Leave out of each row itself and its other views; y holds the rows of x from ``start`` on."""
        return Pairs(x, y, scale, None, start, views, 0, x.shape[0] // views)


class Sums(NamedTuple):
    """Hold log-sum-exps of the logits' rows and columns, and the gradient of each; None if there is no gradient."""

    rows: Tensor | None  # (N,)
    rows_grad: Tensor | None
    cols: Tensor | None  # (M,)
    cols_grad: Tensor | None


class Positives(NamedTuple):
    """Match row i of x with row i of y; its logit is the scaled product."""

    x: Tensor  # (N, D)
    y: Tensor  # (N, D)
    scale: Tensor  # ()


class Moved(NamedTuple):
    """Hold the rows of both sides as they were multiplied, and what moves them.

    That is the sum over a row's negatives of weight * negative, in the dtype of sums; None stands for zeros. The norms
    are those of the rows as they were given, or None if they were multiplied as given.
    """

    x: Tensor  # (N, D)
    moved_x: Tensor | None  # (N, D)
    x_norms: Tensor | None  # (N,)
    y: Tensor | None  # (M, D), or None if there is no other side
    moved_y: Tensor | None  # (M, D)
    y_norms: Tensor | None  # (M,)
    scale: Tensor  # ()


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
    x, y = pairs.x, pairs.y
    n, m, dtype = x.shape[0], (x if y is None else y).shape[0], wide(x.dtype)
    return (
        x.new_empty((n,), dtype=dtype),
        x.new_empty((m if columns else 0,), dtype=dtype),
        x.new_empty((n, x.shape[1]) if attend else (0,), dtype=dtype),
    )


@SIMILARITY.op
def backward(
    pairs: Pairs, sums: Sums, need_x: bool, need_y: bool, need_bias: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sums of weight * y over columns, of weight * x over rows, and of weights over rows.

    They are the gradients of x and y but for the scale, and of the bias, in the dtype of sums. Those not asked for are
    empty. Where y is x, the first holds both, and the sums of columns are those of rows.
    """
    x, y = pairs.x, pairs.y
    dtype = wide(x.dtype)
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,), dtype=dtype),
        y.new_empty(tuple(y.shape), dtype=dtype) if need_y and y is not None else x.new_empty(0, dtype=dtype),
        y.new_empty(y.shape[:1], dtype=dtype) if need_bias and y is not None else x.new_empty(0, dtype=dtype),
    )


@SIMILARITY.op
def weigh(
    positives: Positives, rows: Tensor, cols: Tensor | None, share: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn log-sum-exps of negatives into share * sum_i softplus(lse_i - p_i), and the weights of its gradient.

    The sum is over both directions where there are ``cols``, the log-sum-exps of the rows of y. Return the value; the
    gradients of rows and of cols (1 or 2, N); minus that of the positives' logits (N,); and its sum over the logits,
    times minus one over the scale.
    """
    directions = 1 if cols is None else 2
    return (
        rows.new_empty(()),
        rows.new_empty((directions, rows.shape[0])),
        torch.empty_like(rows),
        rows.new_empty(()),
    )


@SIMILARITY.op
def finish(
    moved: Moved, pull: Tensor | None, need_x: bool, need_y: bool, need_scale: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the rows as they were given, and the part of the scale's that negatives have.

    This part is the sum of <x, moved_x>, or of <y, moved_y>, since both sum weight * logit over pairs; of two we take
    the mean, as each may lack what ranks hold. Row i of x and row i of y were pulled to each other by ``pull[i]``,
    unless pull is None. Gradients not asked for are empty.
    """
    x, y, dtype = moved.x, moved.y, wide(moved.x.dtype)
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,), dtype=dtype),
        y.new_empty(tuple(y.shape), dtype=dtype) if need_y and y is not None else x.new_empty(0, dtype=dtype),
        x.new_empty(() if need_scale else (0,), dtype=dtype),
    )


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
