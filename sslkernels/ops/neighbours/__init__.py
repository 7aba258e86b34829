# SPDX-License-Identifier: Apache-2.0
"""Find the k nearest rows by dot product, cosine or distance, without the matrix of all pairs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_choice,
    check_device,
    check_floating,
    check_rows,
    check_size,
    check_tensor,
    shape_of,
)
from sslkernels.ops.dtypes import compute_dtype, promoted, wide
from sslkernels.ops.neighbours.schema import NEIGHBOURS, Search, topk

__all__ = ["NEIGHBOURS", "topk_similarity"]

ROWS = "(N, D), or (..., N, D) for a batch"


def topk_similarity(
    x: Tensor,
    y: Tensor | None = None,
    k: int = 1,
    *,
    metric: Literal["dot", "cosine", "euclidean"] = "dot",
    bias: Tensor | None = None,
    exclude: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of y for each row of x, without forming the matrix of all pairs.

    The values are ``<x_i, y_j> + bias_j`` with metric ``"dot"``, the same of unit rows (norms clamped at 1e-12) with
    ``"cosine"``, and ``|x_i - y_j|`` with ``"euclidean"``, of which the smallest are best.

    Args:
        x: rows ``(..., N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        y: rows ``(..., M, D)`` of the same dtype, device and leading dimensions. Rows of one batch element find rows of
            the same element alone. ``None`` means ``y = x``, where no row finds itself.
        k: how many columns, from 1 to M.
        metric: ``"dot"``, ``"cosine"`` or ``"euclidean"``.
        bias: ``(..., M)``, added to every row's products or cosines; distances have none.
        exclude: int64 ``(..., N)`` or ``(..., N, E)``, the columns that row i leaves out; -1 for none.
        backend: ``"reference"``, ``"cpu"`` or ``"triton"``; by default the fastest that can run.

    Returns:
        ``(values, indices)``, both ``(..., N, k)``, best first. Of equal values the lower index is first. Values are
        float32 (float64 for float64 rows), indices int64. Neither has a gradient, whatever the inputs require.
        A value that is NaN, ``-inf``, or an infinite distance is never found. Where fewer than k columns are left, the
        rest has index -1 and value ``-inf`` (``inf`` for distances).

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, a k beyond M, an unknown backend.
        IndexError: an excluded column outside ``[-1, M)``, checked on the CPU.

    Rows are rounded to their dtype before products, and these are summed in that of the values. Backends sum in
    different orders, so that nearly equal values may change places; rows that are equal tie on all. Distances rank by
    ``<x_i, y_j> - |y_j|^2 / 2``, after float32 and float64 rows are centred; those of the k winners are computed from
    differences, and so keep their digits however near the rows are. A distance whose square is beyond the range of
    the sums counts as infinite, and below it as 0.

    Cost: ``2*N*M*D`` operations, ``O(N*k + (N + M)*D)`` bytes.

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> keys = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    >>> SF.topk_similarity(torch.zeros(1, 2), keys, k=2, metric="euclidean")
    (tensor([[0., 1.]]), tensor([[0, 2]]))
    """
    x = _check_rows("x", x)
    keys = x
    if y is not None:
        keys = _check_rows("y", y)
        _check_alike(x, keys)
    metric = check_choice("topk_similarity", "metric", metric, ("dot", "cosine", "euclidean"))  # type: ignore[assignment]
    k = _check_k(k, keys)
    if bias is not None:
        bias = _check_bias(bias, keys, metric)
    if exclude is not None:
        exclude = _check_exclude(exclude, x, keys)
    x, keys = promoted(x.detach(), keys.detach())
    dtype = compute_dtype(x)
    x, keys = x.to(dtype), keys.to(dtype)
    leading = x.shape[:-1]
    search = Search(
        _one_batch(x, 2),
        None if y is None else _one_batch(keys, 2),
        None if bias is None else _one_batch(bias.detach().to(wide(dtype)), 1),
        None if exclude is None else _one_batch(exclude, 2),
    )
    values, indices = topk(search, k, metric, NEIGHBOURS.choose(x.device, dtype, backend))
    return values.view(*leading, k), indices.view(*leading, k)


def _one_batch(x: Tensor, last: int) -> Tensor:
    """Bring all leading dimensions but the ``last`` into one."""
    return x[None] if x.dim() == last else x if x.dim() == last + 1 else x.flatten(0, -last - 1)


def _check_rows(name: str, value: object) -> Tensor:
    rows = check_tensor("topk_similarity", name, value, ROWS)
    return check_rows("topk_similarity", name, rows, ROWS, dims=max(2, rows.dim()))


def _check_alike(x: Tensor, y: Tensor) -> None:
    if x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"topk_similarity: x has shape {shape_of(x)} and y {shape_of(y)}; "
            "both need the same number of features, and the same leading dimensions."
        )
    check_device("topk_similarity", "y", y, "x", x)
    if x.dtype != y.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(f"topk_similarity: x has dtype {x.dtype} and y {y.dtype}; convert one of them.")


def _check_k(k: int, keys: Tensor) -> int:
    k = check_size("topk_similarity", "k", k)
    if k > keys.shape[-2]:
        raise ValueError(
            f"topk_similarity: k is {k} and there are {keys.shape[-2]} columns; pass a k from 1 to their number."
        )
    return k


def _check_bias(bias: Tensor, keys: Tensor, metric: str) -> Tensor:
    if metric == "euclidean":
        raise ValueError("topk_similarity: bias is given and metric is 'euclidean'; distances take none, pass None.")
    bias = check_tensor("topk_similarity", "bias", bias, "(..., M)")
    check_floating("topk_similarity", "bias", bias)
    if bias.shape != keys.shape[:-1]:
        raise ValueError(
            f"topk_similarity: bias has shape {shape_of(bias)} and the columns {shape_of(keys)}; "
            f"pass one number per column, {tuple(keys.shape[:-1])}."
        )
    check_device("topk_similarity", "bias", bias, "the columns", keys)
    return bias


def _check_exclude(exclude: Tensor, x: Tensor, keys: Tensor) -> Tensor:
    exclude = check_tensor("topk_similarity", "exclude", exclude, "(..., N) or (..., N, E), int64 column indices")
    if exclude.dtype != torch.int64:
        raise TypeError(f"topk_similarity: exclude has dtype {exclude.dtype}; pass an int64 tensor of column indices.")
    if exclude.shape[: x.dim() - 1] != x.shape[:-1] or exclude.dim() not in (x.dim() - 1, x.dim()):
        raise ValueError(
            f"topk_similarity: exclude has shape {shape_of(exclude)} and x {shape_of(x)}; "
            "expected (..., N) or (..., N, E) with one row of column indices per row of x."
        )
    check_device("topk_similarity", "exclude", exclude, "x", x)
    if exclude.device.type == "cpu" and not torch.compiler.is_compiling() and exclude.numel():
        low, high = (int(bound) for bound in exclude.aminmax())
        if low < -1 or high >= keys.shape[-2]:
            raise IndexError(
                f"topk_similarity: exclude holds {low if low < -1 else high}; "
                f"columns run from 0 to {keys.shape[-2] - 1}, and -1 stands for none."
            )
    return exclude[..., None] if exclude.dim() == x.dim() - 1 else exclude
