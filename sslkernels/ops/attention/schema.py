# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the attention family: softmax(logits) @ values over all pairs of rows, and its gradients."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

ATTENTION = family("attention", kernels=("cpu", "triton"))


class Attention(NamedTuple):
    """Stand for the values of keys under the logits scale * <query_i, key_j> + bias_j of all pairs not left out."""

    query: Tensor  # (N, D)
    keys: Tensor  # (M, D)
    values: Tensor  # (M, Dv)
    scale: Tensor  # (), in the dtype of sums
    bias: Tensor | None  # (M,), in the dtype of sums
    exclude: Tensor | None  # (N, E): row i leaves out these keys; -1 for none


class Wanted(NamedTuple):
    """Say which gradients are wanted. The query's serves the scale too."""

    of_query: bool
    of_keys: bool
    of_values: bool
    of_bias: bool


@ATTENTION.op
def forward(attention: Attention, backend: str) -> tuple[Tensor, Tensor]:
    """Return softmax(logits) @ values (N, Dv) and the log-sum-exp of each row (N,), in the dtype of sums."""
    query, dtype = attention.query, wide(attention.query.dtype)
    return (
        query.new_empty((query.shape[0], attention.values.shape[1]), dtype=dtype),
        query.new_empty((query.shape[0],), dtype=dtype),
    )


@ATTENTION.op
def backward(
    attention: Attention, out: Tensor, lse: Tensor, grad: Tensor, wanted: Wanted, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of query and of keys but for the scale, and those of values and of bias.

    They are in the dtype of sums; those not asked for are empty. ``out`` and ``lse`` come from the forward, and
    ``grad`` is the gradient of ``out``.
    """
    query, keys, values, *_ = attention
    dtype = wide(query.dtype)

    def gradient(shape: tuple[int, ...], need: bool) -> Tensor:
        return query.new_empty(shape if need else (0,), dtype=dtype)

    return (
        gradient(tuple(query.shape), wanted.of_query),
        gradient(tuple(keys.shape), wanted.of_keys),
        gradient(tuple(values.shape), wanted.of_values),
        gradient((keys.shape[0],), wanted.of_bias),
    )
