# SPDX-License-Identifier: Apache-2.0
"""Compute cosines of matching rows, and losses made of them. Sums are fp32, or fp64 for fp64 rows.

    c_i = <u_i, v_i>,   u = x / max(|x|, eps),  v = y / max(|y|, eps)
    dx_i = g_i (v_i - c_i u_i) / max(|x_i|, eps),   without c_i u_i where |x_i| <= eps;  dy likewise

A loss that is one number knows g_i in the forward, and one pass over the rows gives value and gradient. Cosines one by
one take a pass forward and one backward, which needs x and y themselves and three numbers per row, but no unit row. A
frozen side costs nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.one_call import in_one_call
from sslkernels.ops.repeats import distinct
from sslkernels.ops.rows.schema import ROWS, CosineLoss, Matched, cosine_backward, cosine_forward, cosine_loss


def row_cosine(x: Tensor, y: Tensor, eps: float, *, backend: str | None = None) -> Tensor:
    """Compute the cosines ``(N,)`` of row i of x and row i of y, in float32 (float64 for float64 rows).

    Both need one dtype and one shape.

    >>> import torch
    >>> from sslkernels.ops.rows.cosine import row_cosine
    >>> row_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), 1e-8)
    tensor([0.8000])
    """
    return _RowCosine.apply(*distinct(x, y), float(eps), ROWS.choose(x.device, x.dtype, backend))


def cosine_losses(
    x: Tensor,
    y: Tensor,
    eps: float,
    offset: int,
    weight: int,
    reduction: str,
    shard: Shard,
    backend: str | None,
) -> Tensor:
    """Compute ``offset - weight * cosine`` of matching rows.

    They are reduced to their "mean" or "sum" over all ranks, times the number of ranks; "none" leaves them. The mean
    over ranks of the returned values is then the whole batch's value, even if ranks hold different numbers of rows.
    """
    if reduction == "none":
        return torch.rsub(row_cosine(x, y, eps, backend=backend), offset, alpha=weight)
    asked = _Asked(eps, offset, weight, reduction == "mean", shard, ROWS.choose(x.device, x.dtype, backend))
    return in_one_call(_computed, asked, x, y)


class _Asked(NamedTuple):
    eps: float
    offset: int
    weight: int
    mean: bool
    shard: Shard
    backend: str


def _computed(asked: _Asked, needs: tuple[bool, bool], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    eps, offset, weight, mean, shard, backend = asked
    divisor = shard.total(x.shape[0]) if mean else 1
    return cosine_loss(CosineLoss(x, y, eps, offset, weight, shard.ranks, divisor), *needs, backend)


class _RowCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, eps: float, backend: str) -> Tensor:
        cosines, norms = cosine_forward(Matched(x, y, eps), backend)
        ctx.save_for_backward(x, y, cosines, norms)
        ctx.eps, ctx.backend = eps, backend
        return cosines

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, cosines, norms = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        dx, dy = cosine_backward(Matched(x, y, ctx.eps), cosines, norms, grad, need_x, need_y, ctx.backend)
        return dx if need_x else None, dy if need_y else None, None, None
