# SPDX-License-Identifier: Apache-2.0
"""Compare a student's similarities to a bank with a teacher's, by two attentions to the bank and no matrix.

A cross-entropy with soft targets t_i is ``lse_i - sum_j t_ij * s_ij``. Its gradient along the query is
``scale * (mean of the bank under p_i - mean of the bank under t_i)``, and both means come with the forward. So the
backward reads neither bank nor teacher, and their difference is rounded once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.attention import schema as attention
from sslkernels.ops.attention.schema import ATTENTION, Attention
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.dtypes import widened


def compared(
    query: Tensor, key: Tensor, bank: Tensor, scale: Tensor, target_scale: Tensor, backend: str | None
) -> tuple[Tensor, Tensor]:
    """Return ``lse_i = log sum_j exp(s_ij)`` and ``sum_j t_ij * s_ij``, ``(N,)`` each, with s = scale * query @ bank.T.

    t is the softmax of ``target_scale * key @ bank.T``. Rows have one dtype; query and scale alone get gradients.
    """
    chosen = ATTENTION.choose(query.device, query.dtype, backend)
    return _Compared.apply(query, key.detach(), bank.detach(), scale, target_scale.detach(), chosen)


class _Compared(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, bank: Tensor, scale: Tensor, target_scale: Tensor, backend: str
    ) -> tuple[Tensor, Tensor]:
        mean, lse = attention.forward(Attention(query, bank, bank, scale, None, None), backend)
        target, _ = attention.forward(Attention(key, bank, bank, target_scale, None, None), backend)
        along_mean, along_target = ((widened(query) * rows).sum(1) for rows in (mean, target))
        # The query is kept so that a second derivative finds it, and raises.
        kept = query if ctx.needs_input_grad[0] else None
        ctx.save_for_backward(kept, scale, mean, target, along_mean, along_target)
        ctx.dtype = query.dtype
        return lse, scale * along_target

    @staticmethod
    @first_derivative
    def backward(ctx: Any, lse_grad: Tensor, logit_grad: Tensor) -> Any:
        _, scale, mean, target, along_mean, along_target = ctx.saved_tensors
        dquery = dscale = None
        if ctx.needs_input_grad[0]:
            dquery = (scale * (lse_grad[:, None] * mean + logit_grad[:, None] * target)).to(ctx.dtype)
        if ctx.needs_input_grad[3]:
            dscale = (lse_grad * along_mean + logit_grad * along_target).sum()
        return dquery, None, None, dscale, None, None
