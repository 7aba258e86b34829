# SPDX-License-Identifier: Apache-2.0
"""Run the sampled family on the compiled C++ kernels: allocate, pass pointers, return."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels import _C
from sslkernels.ops.launch import CODES, alike, rows_of
from sslkernels.ops.sampled.schema import Sampled


def forward(sampled: Sampled) -> Tensor:
    sampled = _readable(sampled)
    out = torch.empty(sampled.index.shape, dtype=sampled.scale.dtype, device="cpu")
    _C.sampled_forward(*_at(sampled), out.data_ptr(), torch.get_num_threads())
    return out


def backward(
    sampled: Sampled, grad: Tensor, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sampled, grad = _readable(sampled), grad.contiguous()
    x, y, _, scale = sampled
    dx = torch.empty(x.shape if need_x else (0,), dtype=x.dtype, device="cpu")
    dy = torch.empty(y.shape if need_y else (0,), dtype=y.dtype, device="cpu")
    dscale = torch.empty(() if need_scale else (0,), dtype=scale.dtype, device="cpu")
    threads = torch.get_num_threads()
    if need_x or need_scale:
        _C.sampled_gradient_of_x(
            *_at(sampled), grad.data_ptr(), dx.data_ptr(), dscale.data_ptr() if need_scale else 0, threads
        )
    if need_y:
        _C.sampled_gradient_of_y(*_at(sampled), grad.data_ptr(), dy.data_ptr(), 0, threads)
    return dx, dy, dscale


def _readable(sampled: Sampled) -> Sampled:
    """Return the same pairs with strides that the kernels take."""
    x, y, index, scale = sampled
    return Sampled(rows_of(x), alike(x, y), index.contiguous(), scale)


def _at(sampled: Sampled) -> tuple[int, int, int, int, int, int, int, int, int, bool, int, float]:
    x, y, index, scale = sampled
    return (
        CODES[x.dtype], x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), y.stride(0), y.shape[0], x.shape[1],
        index.data_ptr(), index.dtype == torch.int64, index.shape[1], float(scale),
    )  # fmt: skip
