# SPDX-License-Identifier: Apache-2.0
"""Cosines of matching rows, one pass forward and one backward. Sums are fp32, or fp64 for fp64 rows.

    c_i = <u_i, v_i>,   u = x / max(|x|, eps),  v = y / max(|y|, eps)
    dx_i = g_i (v_i - c_i u_i) / max(|x_i|, eps),   without c_i u_i where |x_i| <= eps;  dy likewise

Kept for the backward: x and y themselves, three numbers per row, and no unit row. A frozen side costs nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.backends import choose
from sslkernels.distributed import Shard
from sslkernels.ops.registry import define, family, first_derivative, wide
from sslkernels.ops.similarity.reduction import each, reduced

_run = family("similarity")


def row_cosine(x: Tensor, y: Tensor, eps: float, *, backend: str | None = None) -> Tensor:
    """Cosines ``(N,)`` of row i of x with row i of y, in float32 (float64 for float64 rows); one dtype, one shape.

    >>> import torch
    >>> from sslkernels.ops.similarity.cosine import row_cosine
    >>> row_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), 1e-8)
    tensor([0.8000])
    """
    return _RowCosine.apply(x, y, float(eps), 0, -1, "none", None, choose(x.device, x.dtype, backend))


def cosine_losses(
    x: Tensor,
    y: Tensor,
    eps: float,
    offset: int,
    weight: int,
    reduction: str,
    shard: Shard | None,
    backend: str | None,
) -> Tensor:
    """``offset - weight * cosine`` of matching rows, `reduced`, in one node."""
    return _RowCosine.apply(x, y, eps, offset, weight, reduction, shard, choose(x.device, x.dtype, backend))


def _forward(x: Tensor, y: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    return _run("row_cosine_forward", backend, x, y, eps)


def _forward_fake(x: Tensor, y: Tensor, eps: float, backend: str) -> tuple[Tensor, Tensor]:
    dtype = wide(x.dtype)
    return x.new_empty((x.shape[0],), dtype=dtype), x.new_empty((2, x.shape[0]), dtype=dtype)


def _backward(
    x: Tensor,
    y: Tensor,
    cosines: Tensor,
    norms: Tensor,
    grad: Tensor,
    eps: float,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _run("row_cosine_backward", backend, x, y, cosines, norms, grad, eps, need_x, need_y)


def _backward_fake(
    x: Tensor,
    y: Tensor,
    cosines: Tensor,
    norms: Tensor,
    grad: Tensor,
    eps: float,
    need_x: bool,
    need_y: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(tuple(x.shape) if need_x else (0,)), y.new_empty(tuple(y.shape) if need_y else (0,))


row_cosine_forward = define(
    "row_cosine_forward(Tensor x, Tensor y, float eps, str backend) -> (Tensor, Tensor)", _forward, _forward_fake
)
row_cosine_backward = define(
    "row_cosine_backward(Tensor x, Tensor y, Tensor cosines, Tensor norms, Tensor grad, float eps, bool need_x,"
    " bool need_y, str backend) -> (Tensor, Tensor)",
    _backward,
    _backward_fake,
)


class _RowCosine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        eps: float,
        offset: int,
        weight: int,
        reduction: str,
        shard: Shard | None,
        backend: str,
    ) -> Tensor:
        cosines, norms = row_cosine_forward(x, y, eps, backend)
        ctx.save_for_backward(x, y, cosines, norms)
        ctx.eps, ctx.weight, ctx.reduction, ctx.shard, ctx.backend = eps, weight, reduction, shard, backend
        return reduced(torch.rsub(cosines, offset, alpha=weight), reduction, shard)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, cosines, norms = ctx.saved_tensors
        need_x, need_y = ctx.needs_input_grad[:2]
        grad = (-ctx.weight * each(grad, x.shape[0], ctx.reduction, ctx.shard)).expand(x.shape[0])
        dx, dy = row_cosine_backward(x, y, cosines, norms, grad, ctx.eps, need_x, need_y, ctx.backend)
        return dx if need_x else None, dy if need_y else None, None, None, None, None, None, None
