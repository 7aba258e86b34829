# SPDX-License-Identifier: Apache-2.0
"""Compute log-sum-exps of all-pairs similarities, over rows and over columns, without the matrix."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from sslkernels.arguments import check_alike, check_choice, check_rows, check_scalar, check_tensor, shape_of
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor
from sslkernels.ops.similarity.autograd import LogSumExpSimilarity
from sslkernels.ops.similarity.schema import SIMILARITY, Pairs

__all__ = ["SIMILARITY", "checked_logsumexp", "logsumexp_similarity"]


@overload
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = ...,
    scale: float | Tensor = ...,
    *,
    exclude: Tensor | None = ...,
    dim: Literal["rows"] = ...,
    backend: str | None = ...,
) -> Tensor: ...
@overload
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = ...,
    scale: float | Tensor = ...,
    *,
    exclude: Tensor | None = ...,
    dim: Literal["both"],
    backend: str | None = ...,
) -> tuple[Tensor, Tensor]: ...
def logsumexp_similarity(
    x: Tensor,
    y: Tensor | None = None,
    scale: float | Tensor = 1.0,
    *,
    exclude: Tensor | None = None,
    dim: Literal["rows", "both"] = "rows",
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sum exponentials of similarities, the core of contrastive losses, without forming their matrix.

    ``lse_i = log sum_j exp(scale * <x_i, y_j>)`` over all j that row i does not exclude.

    Args:
        x: rows ``(N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        y: rows ``(M, D)`` of the same dtype; ``None`` means ``y = x``, the diagonal included.
        scale: any real number, or a one-element tensor, which then receives its gradient.
        exclude: int64 ``(N,)`` or ``(N, E)``, the columns that row i leaves out; -1 for none, repeats count once.
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
    """
    check_rows("logsumexp_similarity", "x", x)
    if y is not None:
        check_alike("logsumexp_similarity", "y", check_rows("logsumexp_similarity", "y", y), "x", x, rows=False)
    scale = check_scalar("logsumexp_similarity", "scale", scale)
    check_choice("logsumexp_similarity", "dim", dim, ("rows", "both"))
    keys = x if y is None else y
    if exclude is not None:
        exclude = _check_exclude(exclude, x, keys)
    if y is not None:
        x, y = promoted(x, y)
    dtype = compute_dtype(x)
    x, y = x.to(dtype), None if y is None else y.to(dtype)
    return checked_logsumexp(Pairs(x, y, scale_tensor(scale, x), exclude), dim == "both", backend)


def checked_logsumexp(pairs: Pairs, columns: bool, backend: str | None) -> Any:
    """Call `logsumexp_similarity` with checked arguments: one dtype and device, 0-dim scale, exclude ``(N, E)``."""
    chosen = SIMILARITY.choose(pairs.x.device, pairs.x.dtype, backend)
    return LogSumExpSimilarity.apply(*pairs, columns, chosen)


def _check_exclude(exclude: Tensor, x: Tensor, keys: Tensor) -> Tensor:
    exclude = check_tensor("logsumexp_similarity", "exclude", exclude, "(N,) or (N, E), int64 column indices")
    if exclude.dtype != torch.int64:
        raise TypeError(
            f"logsumexp_similarity: exclude has dtype {exclude.dtype}; pass an int64 tensor of column indices."
        )
    if exclude.dim() not in (1, 2) or exclude.shape[0] != x.shape[0]:
        raise ValueError(
            f"logsumexp_similarity: exclude has shape {shape_of(exclude)} and x {shape_of(x)}; "
            "expected (N,) or (N, E) with one row of column indices per row of x."
        )
    if exclude.device != x.device:
        raise ValueError(f"logsumexp_similarity: exclude is on {exclude.device} and x on {x.device}; move it there.")
    if exclude.device.type == "cpu" and not torch.compiler.is_compiling() and exclude.numel():
        low, high = (int(bound) for bound in exclude.aminmax())
        if low < -1 or high >= keys.shape[0]:
            raise IndexError(
                f"logsumexp_similarity: exclude holds {low if low < -1 else high}; "
                f"columns run from 0 to {keys.shape[0] - 1}, and -1 stands for none."
            )
    return exclude[:, None] if exclude.dim() == 1 else exclude
