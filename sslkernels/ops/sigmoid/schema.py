# SPDX-License-Identifier: Apache-2.0
"""Declare the ops of the sigmoid family: sums of softplus over all pairs of rows, their gradient, and both at once.

`loss` is SigLIP's with its gradient, for one process and for each meeting of ranks (composed.py). The other two are for
rows whose weights are known only in the backward.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sslkernels.ops.dtypes import wide
from sslkernels.ops.registry import family

SIGMOID = family("sigmoid", kernels=("cpu", "triton"))


class Pairs(NamedTuple):
    """Stand for the logits scale * <x_i, y_j> + bias of all pairs.

    Where they are ``paired``, row i of x belongs to row i of y, and their logit counts with the other sign.
    """

    x: Tensor  # (N, D)
    y: Tensor | None  # (M, D), or None for x itself
    scale: Tensor  # (), in the dtype of sums
    bias: Tensor  # (), in the dtype of sums
    paired: bool


class Needs(NamedTuple):
    """Say which gradients are wanted."""

    need_x: bool
    need_y: bool
    need_scale: bool
    need_bias: bool


@SIGMOID.op
def forward(pairs: Pairs, backend: str) -> Tensor:
    """Sum softplus of the logits over each row, (N,)."""
    return pairs.x.new_empty(pairs.x.shape[0], dtype=wide(pairs.x.dtype))


@SIGMOID.op
def backward(pairs: Pairs, weights: Tensor, needs: Needs, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of sum_i weights_i * sum_i by x, y, scale and bias; those not asked for are empty.

    They are in the dtype of sums. Where y is x, the first holds both.
    """
    return _gradients(pairs, needs)


@SIGMOID.op
def loss(pairs: Pairs, share: float, needs: Needs, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return share * sum of all rows' sums, and its gradients as `backward` does."""
    value = pairs.x.new_empty((), dtype=wide(pairs.x.dtype))
    return value, *_gradients(pairs, needs)


def _gradients(pairs: Pairs, needs: Needs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = wide(pairs.x.dtype)

    def gradient(of: Tensor | None, need: bool) -> Tensor:
        return pairs.x.new_empty(tuple(of.shape) if need and of is not None else (0,), dtype=dtype)

    return (
        gradient(pairs.x, needs.need_x),
        gradient(pairs.y, needs.need_y),
        gradient(pairs.scale, needs.need_scale),
        gradient(pairs.bias, needs.need_bias),
    )
