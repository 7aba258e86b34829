# SPDX-License-Identifier: Apache-2.0
"""Attend from rows to values by all-pairs similarities, without the matrix of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.arguments import (
    check_alike,
    check_device,
    check_rows,
    check_scalar,
    shape_of,
)
from sslkernels.ops.attention.autograd import AttendSimilarity
from sslkernels.ops.attention.schema import ATTENTION
from sslkernels.ops.dtypes import compute_dtype, promoted, scale_tensor, wide
from sslkernels.ops.repeats import distinct
from sslkernels.ops.similarity import check_bias, check_columns

__all__ = ["ATTENTION", "attend_similarity"]


def attend_similarity(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    scale: float | Tensor = 1.0,
    *,
    bias: Tensor | None = None,
    exclude: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Average values by the softmax of similarities, as soft targets and kernel smoothers do, without the matrix.

    ``out_i = sum_j softmax_j(scale * <query_i, keys_j> + bias_j) * values_j`` over all j that row i does not exclude.

    Args:
        query: rows ``(N, D)``; float32, float64, bfloat16 or float16. Any row stride.
        keys: rows ``(M, D)`` of the same dtype.
        values: rows ``(M, Dv)`` of the same dtype; Dv need not be D.
        scale: any real number, or a one-element tensor, which then receives its gradient.
        bias: ``(M,)``, added to the scaled products of each row; floating-point, and receives its gradient. With
            ``bias = log(w)``, key j counts w_j times.
        exclude: int64 ``(N,)`` or ``(N, E)``, the keys that row i leaves out; -1 for none, repeats count once.
        backend: see `logsumexp_similarity`.

    Returns:
        float32 ``(N, Dv)`` (float64 for float64 rows). A row with nothing left is 0 with zero gradients.
        A running maximum keeps it exact at any scale; NaN rows give NaN.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not match, an unknown backend.
        IndexError: an excluded key outside ``[-1, M)``, checked on the CPU.

    Cost: ``2*N*M*(D + Dv)`` operations forward and ``6*N*M*D + 4*N*M*Dv`` backward for all gradients, fewer where some
    inputs are frozen; ``O((N + M) * (D + Dv))`` bytes. No weights stay for the backward. A second derivative raises.
    The formula and the passes are those of FlashAttention-2 (Dao 2023).

    >>> import torch
    >>> import sslkernels.functional as SF
    >>> query, keys = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    >>> SF.attend_similarity(query, keys, torch.tensor([[0.0], [1.0]]), bias=torch.tensor([0.0, 1.0]))
    tensor([[0.5000]])
    """
    name = "attend_similarity"
    check_rows(name, "query", query)
    check_alike(name, "keys", check_rows(name, "keys", keys), "query", query, rows=False)
    _check_values(name, values, keys)
    scale = check_scalar(name, "scale", scale)
    if bias is not None:
        bias = check_bias(name, bias, keys)
    if exclude is not None:
        exclude = check_columns(name, exclude, query, keys)
    query, keys, values = promoted(query, keys, values)
    dtype = compute_dtype(query)
    query, keys, values = query.to(dtype), keys.to(dtype), values.to(dtype)
    bias = None if bias is None else bias.to(wide(dtype))
    chosen = ATTENTION.choose(query.device, query.dtype, backend)
    inputs = distinct(query, keys, values, scale_tensor(scale, query), bias, exclude)
    return AttendSimilarity.apply(*inputs, chosen)


def _check_values(name: str, values: Tensor, keys: Tensor) -> None:
    check_rows(name, "values", values, "(M, Dv), one row per key")
    if values.shape[0] != keys.shape[0]:
        raise ValueError(
            f"{name}: values has shape {shape_of(values)} and keys {shape_of(keys)}; pass one row of values per key."
        )
    check_device(name, "values", values, "keys", keys)
    if values.dtype != keys.dtype and not torch.is_autocast_enabled(values.device.type):
        raise TypeError(f"{name}: keys has dtype {keys.dtype} and values {values.dtype}; convert one of them.")
