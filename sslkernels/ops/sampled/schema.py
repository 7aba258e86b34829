# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the sampled family: products of rows of x with the rows of y that an index names."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

SAMPLED = family("sampled", kernels=("cpu", "triton"))


class Sampled(NamedTuple):
    """Stand for the logits ``scale * <x_i, y_j>`` of the pairs with ``j = index[i, k]``.

    An index of -1 stands for no pair. Any other outside [0, M) stands for a row of NaN, which gets no gradient.
    """

    x: Tensor  # (N, D)
    y: Tensor  # (M, D)
    index: Tensor  # (N, K), int64 or int32
    scale: Tensor  # (), in the dtype of sums


@SAMPLED.op
def forward(sampled: Sampled, backend: str) -> Tensor:
    """Return the logits (N, K) in the dtype of sums, -inf where there is no pair."""
    return sampled.x.new_empty(tuple(sampled.index.shape), dtype=wide(sampled.x.dtype))


@SAMPLED.op
def backward(
    sampled: Sampled, grad: Tensor, need_x: bool, need_y: bool, need_scale: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, y and scale, given that of the logits (N, K); those not asked for are empty.

    What ``grad`` holds where there is no pair is not read.
    """
    x, y, _, scale = sampled
    return (
        x.new_empty(tuple(x.shape) if need_x else (0,)),
        y.new_empty(tuple(y.shape) if need_y else (0,)),
        scale.new_empty(() if need_scale else (0,)),
    )
