# SPDX-License-Identifier: Apache-2.0
"""Compute cosines of matching rows in one pass forward and one backward. Sums are fp32, or fp64 for fp64 rows.

    c_i = <u_i, v_i>,   u = x / max(|x|, eps),  v = y / max(|y|, eps)
    dx_i = g_i (v_i - c_i u_i) / max(|x_i|, eps),   without c_i u_i where |x_i| <= eps;  dy likewise

The backward needs x and y themselves and three numbers per row, but no unit row. A frozen side costs nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sslkernels.distributed import Shard
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.reduction import each, reduced
from sslkernels.ops.rows.schema import ROWS, Matched, cosine_backward, cosine_forward


def row_cosine(x: Tensor, y: Tensor, eps: float, *, backend: str | None = None) -> Tensor:
    """Compute the cosines ``(N,)`` of row i of x and row i of y, in float32 (float64 for float64 rows).

    Both need one dtype and one shape.

    >>> import torch
    >>> from sslkernels.ops.rows.cosine import row_cosine
    >>> row_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), 1e-8)
    tensor([0.8000])
    """
    asked = _Asked(float(eps), 0, -1, "none", Shard.alone, ROWS.choose(x.device, x.dtype, backend))
    return _RowCosine.apply(x, y, asked)


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
    """Compute ``offset - weight * cosine`` of matching rows, `reduced`, in one node."""
    asked = _Asked(eps, offset, weight, reduction, shard, ROWS.choose(x.device, x.dtype, backend))
    return _RowCosine.apply(x, y, asked)


class _Asked(NamedTuple):
    eps: float
    offset: int
    weight: int
    reduction: str
    shard: Shard
    backend: str


class _RowCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, asked: _Asked) -> Tensor:
        cosines, norms = cosine_forward(Matched(x, y, asked.eps), asked.backend)
        ctx.save_for_backward(x, y, cosines, norms)
        ctx.asked = asked
        return reduced(torch.rsub(cosines, asked.offset, alpha=asked.weight), asked.reduction, asked.shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, cosines, norms = ctx.saved_tensors
        eps, _, weight, reduction, shard, backend = ctx.asked
        need_x, need_y = ctx.needs_input_grad[:2]
        grad = (-weight * each(grad, x.shape[0], reduction, shard)).expand(x.shape[0])
        dx, dy = cosine_backward(Matched(x, y, eps), cosines, norms, grad, need_x, need_y, backend)
        return dx if need_x else None, dy if need_y else None, None
