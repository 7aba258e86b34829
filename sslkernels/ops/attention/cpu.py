# SPDX-License-Identifier: Apache-2.0
"""Run the attention family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.attention.schema import Attention, Wanted
from sslkernels.ops.dtypes import wide
from sslkernels.ops.launch import CODES, alike, contiguous, pointer, rows_of


def forward(attention: Attention) -> tuple[Tensor, Tensor]:
    attention = _prepared(attention)
    query, values, dtype = attention.query, attention.values, wide(attention.query.dtype)
    out = torch.empty((query.shape[0], values.shape[1]), dtype=dtype, device="cpu")
    lse = torch.empty(query.shape[0], dtype=dtype, device="cpu")
    _C.attention_forward(*_arguments(attention, out.data_ptr(), lse.data_ptr()))
    return out, lse


def backward(
    attention: Attention, out: Tensor, lse: Tensor, grad: Tensor, wanted: Wanted
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    attention = _prepared(attention)
    query, keys, values, *_ = attention
    shapes = (query.shape, keys.shape, values.shape, keys.shape[:1])
    gradients = tuple(
        torch.empty(shape if need else (0,), dtype=wide(query.dtype), device="cpu")
        for shape, need in zip(shapes, wanted, strict=True)
    )
    if query.shape[0] == 0 or keys.shape[0] == 0:  # empty tensors have address 0, which means "not wanted"
        return tuple(gradient.zero_() for gradient in gradients)  # type: ignore[return-value]
    out, lse, grad = out.contiguous(), lse.contiguous(), grad.contiguous()
    wanted_at = [gradient.data_ptr() for gradient in gradients]
    _C.attention_backward(*_arguments(attention, out.data_ptr(), lse.data_ptr(), grad.data_ptr(), wanted_at))
    return gradients  # type: ignore[return-value]


def _prepared(attention: Attention) -> Attention:
    query, keys, values, scale, bias, exclude = attention
    return Attention(
        rows_of(query), alike(query, keys), alike(query, values), scale, contiguous(bias), contiguous(exclude)
    )


def _arguments(attention: Attention, *outputs: Any) -> Any:
    query, keys, values, scale, bias, exclude = attention
    return (
        CODES[query.dtype], query.data_ptr(), query.stride(0), query.shape[0], keys.data_ptr(), keys.stride(0),
        values.data_ptr(), values.stride(0), keys.shape[0], query.shape[1], values.shape[1], float(scale),
        pointer(bias), pointer(exclude), 0 if exclude is None else exclude.shape[1],
        *outputs, torch.get_num_threads(),
    )  # fmt: skip
