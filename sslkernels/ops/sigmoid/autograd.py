# SPDX-License-Identifier: Apache-2.0
"""Differentiate sums of softplus: a loss as one number whose gradient comes with it, or the sum of each row."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.repeats import distinct
from sslkernels.ops.sigmoid import composed
from sslkernels.ops.sigmoid import schema as sigmoid
from sslkernels.ops.sigmoid.schema import SIGMOID, Needs, Pairs


def reduced(pairs: Pairs, reduction: str, shard: Shard, backend: str | None) -> Tensor:
    """Reduce the sums of rows to the "mean" or "sum" over all ranks, times the number of ranks; "none" leaves them.

    The mean over ranks of the returned values is then the whole batch's value, even if ranks hold different numbers of
    rows.
    """
    if reduction == "none":
        return sums(pairs, shard, backend)
    x, y, scale, bias, paired = pairs
    share = shard.ranks / shard.total(x.shape[0]) if reduction == "mean" else float(shard.ranks)
    asked = _Asked(paired, share, shard, SIGMOID.choose(x.device, x.dtype, backend))
    return in_one_call(_computed, asked, x, y, scale, bias)


def sums(pairs: Pairs, shard: Shard, backend: str | None) -> Tensor:
    """Sum the softplus of each row's logits, (N,). With several ranks rows of y travel in the backward once more."""
    return _Sums.apply(*distinct(*pairs), shard, SIGMOID.choose(pairs.x.device, pairs.x.dtype, backend))


class _Asked(NamedTuple):
    paired: bool
    share: float
    shard: Shard
    backend: str


def _computed(asked: _Asked, needs: tuple[bool, ...], x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Any:
    pairs = Pairs(x, y, scale, bias, asked.paired)
    if asked.shard.ranks == 1:
        return sigmoid.loss(pairs, asked.share, Needs(*needs), asked.backend)
    return composed.loss(pairs, asked.share, Needs(*needs), asked.shard, asked.backend)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor | None, scale: Tensor, bias: Tensor, paired: bool, shard: Shard, backend: str
    ) -> Tensor:
        ctx.save_for_backward(x, y, scale, bias)
        ctx.paired, ctx.shard, ctx.backend = paired, shard, backend
        return composed.forward(Pairs(x, y, scale, bias, paired), shard, backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, scale, bias = ctx.saved_tensors
        needs = Needs(*ctx.needs_input_grad[:4])
        pairs = Pairs(x, y, scale, bias, ctx.paired)
        dx, dy, dscale, dbias = composed.backward(pairs, grad, needs, ctx.shard, ctx.backend)
        return (
            dx.to(x.dtype) if needs.need_x else None,
            dy.to(y.dtype) if needs.need_y else None,
            dscale if needs.need_scale else None,
            dbias if needs.need_bias else None,
            None,
            None,
            None,
        )
