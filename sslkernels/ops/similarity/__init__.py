# SPDX-License-Identifier: Apache-2.0
"""Compute log-sum-exps of all-pairs similarities, over rows and over columns, without the matrix."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_choice,
    check_device,
    check_floating,
    check_rows,
    check_scalar,
    check_size,
    check_tensor,
    shape_of,
)
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor, wide
from sslkernels.ops.repeats import distinct
from sslkernels.ops.similarity.autograd import LogSumExpSimilarity
from sslkernels.ops.similarity.schema import SIMILARITY, Pairs

__all__ = ["SIMILARITY", "check_bias", "check_columns", "checked_logsumexp", "logsumexp_similarity"]


Exclude: TypeAlias = "Tensor | tuple[int, int] | None"


@overload
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = ...,
    scale: float | Tensor = ...,
    *,
    bias: Tensor | None = ...,
    exclude: Exclude = ...,
    row_labels: Tensor | None = ...,
    col_labels: Tensor | None = ...,
    keep: Literal["unequal", "equal"] = ...,
    dim: Literal["rows"] = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = ...,
    scale: float | Tensor = ...,
    *,
    bias: Tensor | None = ...,
    exclude: Exclude = ...,
    row_labels: Tensor | None = ...,
    col_labels: Tensor | None = ...,
    keep: Literal["unequal", "equal"] = ...,
    dim: Literal["both"],
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = None,
    scale: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    exclude: Exclude = None,
    row_labels: Tensor | None = None,
    col_labels: Tensor | None = None,
    keep: Literal["unequal", "equal"] = "unequal",
    dim: Literal["rows", "both"] = "rows",
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sum exponentials of similarities, the core of contrastive losses, without forming their matrix.

    ``lse_i = log sum_j exp(scale * <x_i, y_j> + bias_j)`` over all j that row i does not leave out.

    Args:
        x: rows ``(N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        y: rows ``(M, D)`` of the same dtype; ``None`` means ``y = x``, the diagonal included.
        scale: any real number, or a one-element tensor, which then receives its gradient.
        bias: ``(M,)``, one for each column, with a gradient; float64 for float64 rows, else any of the dtypes above.
            ``-inf`` leaves the column out.
        exclude: int64 ``(N,)`` or ``(N, E)``, the columns that row i leaves out; -1 for none, repeats count once. Or a
            pair of integers ``(first, stride)``: row i leaves out every column j with ``j = first + i`` modulo
            ``stride``; ``(0, M)`` are the diagonal alone.
        row_labels, col_labels: int64 ``(N,)`` and ``(M,)``, for pairs that are left out by their classes; the latter
            are the former where ``y`` is None.
        keep: ``"unequal"`` leaves out pairs whose labels are equal, ``"equal"`` the others.
        dim: ``"rows"``, or ``"both"`` for ``(rows (N,), columns (M,))`` from one pass; both leave out the same pairs.
        backend: ``"reference"``, ``"cpu"`` or ``"triton"``; by default the fastest that can run.

    Returns:
        float32 ``(N,)`` (float64 for float64 rows). A row with nothing left is ``-inf`` with zero gradient.
        A running maximum keeps it exact at any scale; NaN rows give NaN.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend.
        IndexError: an excluded column outside ``[-1, M)``, checked on the CPU.

    Cost: ``2*N*M*D`` operations forward and ``4*N*M*D`` to ``6*N*M*D`` backward (half for x with itself),
    ``O((N + M) * D)`` bytes. No exponentials stay for the backward. A second derivative raises.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> x = torch.eye(3)
    >>> SF.logsumexp_similarity(x, scale=2.0, exclude=torch.arange(3))
    tensor([0.6931, 0.6931, 0.6931])
    >>> SF.logsumexp_similarity(x, scale=2.0, row_labels=torch.tensor([0, 0, 1]), keep="equal")
    tensor([2.1269, 2.1269, 2.0000])
    """
    function = "logsumexp_similarity"
    check_rows(function, "x", x)
    if y is not None:
        check_alike(function, "y", check_rows(function, "y", y), "x", x, rows=False)
    scale = check_scalar(function, "scale", scale)
    check_choice(function, "dim", dim, ("rows", "both"))
    check_choice(function, "keep", keep, ("unequal", "equal"))
    keys = x if y is None else y
    left_out, diagonals = _check_exclude(exclude, x, keys)
    labels = _check_labels(row_labels, col_labels, x, y)
    if keep == "equal" and row_labels is None:
        raise ValueError(f"{function}: keep is 'equal' and there are no labels; pass row_labels, or leave keep out.")
    if y is None and bias is not None:  # with a bias, x with itself is not symmetric
        y = x
        labels = labels[0], labels[0]
    if y is not None:
        x, y = promoted(x, y)
    dtype = compute_dtype(x)
    x, y = x.to(dtype), None if y is None else y.to(dtype)
    bias = None if bias is None else check_bias(function, bias, keys).to(wide(dtype))
    pairs = Pairs(x, y, scale_tensor(scale, x), left_out, *diagonals, bias, *labels, keep == "unequal")
    return checked_logsumexp(pairs, dim == "both", backend)


def checked_logsumexp(pairs: Pairs, columns: bool, backend: str | None) -> Any:
    """Call `logsumexp_similarity` with checked arguments: one dtype and device, 0-dim scale, exclude ``(N, E)``."""
    chosen = SIMILARITY.choose(pairs.x.device, pairs.x.dtype, backend)
    return LogSumExpSimilarity.apply(*distinct(*pairs), columns, chosen)


def check_bias(function: str, bias: object, keys: Tensor) -> Tensor:
    """Check that ``bias`` has one number for each row of ``keys``."""
    given = check_tensor(function, "bias", bias, "(M,), one number for each column")
    if given.dim() != 1 or given.shape[0] != keys.shape[0]:
        raise ValueError(
            f"{function}: bias has shape {shape_of(given)} and there are {keys.shape[0]} columns; "
            f"pass one number for each, ({keys.shape[0]},)."
        )
    check_floating(function, "bias", given)
    check_device(function, "bias", given, "x", keys)
    return given


def check_columns(function: str, exclude: object, x: Tensor, keys: Tensor) -> Tensor:
    """Check indices of columns that rows leave out, and return them as ``(N, E)``."""
    table = check_tensor(function, "exclude", exclude, "(N,) or (N, E), int64 column indices")
    if table.dtype != torch.int64:
        raise TypeError(f"{function}: exclude has dtype {table.dtype}; pass an int64 tensor of column indices.")
    if table.dim() not in (1, 2) or table.shape[0] != x.shape[0]:
        raise ValueError(
            f"{function}: exclude has shape {shape_of(table)} and x {shape_of(x)}; "
            "expected (N,) or (N, E) with one row of column indices per row of x."
        )
    check_device(function, "exclude", table, "x", x)
    if table.device.type == "cpu" and not torch.compiler.is_compiling() and table.numel():
        low, high = (int(bound) for bound in table.aminmax())
        if low < -1 or high >= keys.shape[0]:
            raise IndexError(
                f"{function}: exclude holds {low if low < -1 else high}; "
                f"columns run from 0 to {keys.shape[0] - 1}, and -1 stands for none."
            )
    return table[:, None] if table.dim() == 1 else table


def _check_exclude(exclude: Exclude, x: Tensor, keys: Tensor) -> tuple[Tensor | None, tuple[int, int, int, int]]:
    """Return a table of columns, and the start, the number, the first and the step of diagonals."""
    if exclude is None or isinstance(exclude, Tensor):
        table = None if exclude is None else check_columns("logsumexp_similarity", exclude, x, keys)
        return table, (0, 0, 0, 0)
    if not (isinstance(exclude, tuple) and len(exclude) == 2):
        raise TypeError(
            f"logsumexp_similarity: exclude is a {type(exclude).__name__}; "
            "pass an int64 tensor of column indices, or a pair (first, stride)."
        )
    first = check_size("logsumexp_similarity", "exclude[0]", exclude[0], least=0)
    stride = check_size("logsumexp_similarity", "exclude[1]", exclude[1])
    return None, (0, -(-keys.shape[0] // stride), first % stride, stride)


def _check_labels(
    row_labels: Tensor | None, col_labels: Tensor | None, x: Tensor, y: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Check that there are labels of rows and of columns, or of neither; x itself has those of its rows."""
    given = {"row_labels": (row_labels, x), "col_labels": (col_labels, y)}
    if y is None and col_labels is not None:
        raise ValueError(
            "logsumexp_similarity: col_labels came without y; the columns are the rows of x, so pass row_labels alone."
        )
    if (row_labels is None) != (col_labels is None) and y is not None:
        lacking = "row_labels" if row_labels is None else "col_labels"
        raise ValueError(f"logsumexp_similarity: {lacking} is missing; pass labels of rows and of columns, or neither.")
    for name, (labels, of) in given.items():
        if labels is None or of is None:
            continue
        check_tensor("logsumexp_similarity", name, labels, f"({of.shape[0]},), int64 labels, one for each row")
        if labels.dtype != torch.int64:
            raise TypeError(f"logsumexp_similarity: {name} has dtype {labels.dtype}; pass int64 labels.")
        if labels.shape != of.shape[:1]:
            raise ValueError(
                f"logsumexp_similarity: {name} has shape {shape_of(labels)}; expected ({of.shape[0]},), one each."
            )
        check_device("logsumexp_similarity", name, labels, "x", of)
    return row_labels, col_labels
