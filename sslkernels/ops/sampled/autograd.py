# SPDX-License-Identifier: Apache-2.0
"""Differentiate sampled products. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.sampled import schema
from sslkernels.ops.sampled.schema import Sampled


class GatherSimilarity(torch.autograd.Function):
    """Compute scale * <x_i, y_j> for j = index[i, k]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, index: Tensor, scale: Tensor, backend: str) -> Tensor:
        ctx.save_for_backward(x, y, index, scale)
        ctx.backend = backend
        return schema.forward(Sampled(x, y, index, scale), backend)

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, y, index, scale = ctx.saved_tensors
        need_x, need_y, _, need_scale = ctx.needs_input_grad[:4]
        dx, dy, dscale = schema.backward(Sampled(x, y, index, scale), grad, need_x, need_y, need_scale, ctx.backend)
        return dx if need_x else None, dy if need_y else None, None, dscale if need_scale else None, None
