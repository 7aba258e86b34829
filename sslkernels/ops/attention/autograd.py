# SPDX-License-Identifier: Apache-2.0
"""Differentiate the attention of rows to values. Sums are fp32, or fp64 for fp64 rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels.ops.attention import schema as attention
from sslkernels.ops.attention.schema import Attention, Wanted
from sslkernels.ops.derivative import first_derivative
from sslkernels.ops.similarity import schema as similarity
from sslkernels.ops.similarity.schema import Moved


class AttendSimilarity(torch.autograd.Function):
    """Compute softmax(logits) @ values; the backward needs the output and one log-sum-exp per row beside the inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        exclude: Tensor | None,
        backend: str,
    ) -> Tensor:
        out, lse = attention.forward(Attention(query, keys, values, scale, bias, exclude), backend)
        ctx.save_for_backward(query, keys, values, scale, bias, exclude, out, lse)
        ctx.backend = backend
        return out

    @staticmethod
    @first_derivative
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, keys, values, scale, bias, exclude, out, lse = ctx.saved_tensors
        need_query, need_keys, need_values, need_scale, need_bias = ctx.needs_input_grad[:5]
        of_query = need_query or (need_scale and not need_keys)  # either side's sums tell the scale's gradient
        moved_query, moved_keys, dvalues, dbias = attention.backward(
            Attention(query, keys, values, scale, bias, exclude),
            out,
            lse,
            grad.contiguous(),
            Wanted(of_query, need_keys, need_values, need_bias),
            ctx.backend,
        )
        dquery = dkeys = along = scale
        if of_query or need_keys:
            moved = Moved(
                query, moved_query if of_query else None, None, keys, moved_keys if need_keys else None, None, scale
            )
            dquery, dkeys, along = similarity.finish(moved, None, need_query, need_keys, need_scale, ctx.backend)
        return (
            dquery.to(query.dtype) if need_query else None,
            dkeys.to(keys.dtype) if need_keys else None,
            dvalues.to(values.dtype) if need_values else None,
            along if need_scale else None,
            dbias if need_bias else None,
            None,
            None,
        )
