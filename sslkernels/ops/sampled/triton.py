# SPDX-License-Identifier: Apache-2.0
"""The sampled family on Triton: choose tiles, allocate, launch. Nothing here waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.dtypes import widened
from sslkernels.ops.launch import rows_of
from sslkernels.ops.sampled import triton_kernels as kernels
from sslkernels.ops.sampled.schema import Sampled
from sslkernels.ops.triton_launch import Area, cdiv, empty, floats, processors

# Numbers of y, or of x, that a program holds at once. This was not measured on a GPU.
TILE = Area(numbers=4096, warps=4)
# The entries of a row are split among programs until a multiprocessor has this many programs.
PROGRAMS = 4  # per multiprocessor


def forward(sampled: Sampled) -> Tensor:
    x, y, index, scale = _readable(sampled)
    (n, d), k = x.shape, index.shape[1]
    out = floats(x, n, k)
    if out.numel():
        block_k, block_d = TILE.sides(d)
        k_blocks = cdiv(k, block_k)
        kernels.products_kernel[(n * k_blocks,)](
            x, y, index, scale, out, y.shape[0], k, d, x.stride(0), y.stride(0), k_blocks,
            BLOCK_K=block_k, BLOCK_D=block_d, num_warps=TILE.warps,
        )  # fmt: skip
    return out


def backward(
    sampled: Sampled, grad: Tensor, need_x: bool, need_y: bool, need_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sampled, grad = _readable(sampled), grad.contiguous()
    x, y, _, scale = sampled
    dx, dy, dscale = empty(x, (0,), x.dtype), empty(y, (0,), y.dtype), floats(x, 0)
    if need_x or need_scale:
        moved = _moved(sampled, grad)
        dx = (scale * moved).to(x.dtype) if need_x else dx
        dscale = (widened(x) * moved).sum() if need_scale else dscale
    if need_y:
        dy = _gradient_of_y(sampled, grad)
    return dx, dy, dscale


def _moved(sampled: Sampled, grad: Tensor) -> Tensor:
    """Sum g_ik y_j over k: (N, D)."""
    x, y, index, _ = sampled
    (n, d), k = x.shape, index.shape[1]
    block_k, block_d = TILE.sides(d)
    column_blocks = cdiv(d, block_d)
    parts = max(1, min(cdiv(k, block_k), PROGRAMS * processors(x.device) // max(1, n * column_blocks)))
    out = floats(x, parts, n, d)
    if n:
        kernels.gradient_of_x_kernel[(parts * n * column_blocks,)](
            y, index, grad, out, n, y.shape[0], k, d, y.stride(0), parts, column_blocks,
            BLOCK_K=block_k, BLOCK_D=block_d, num_warps=TILE.warps,
        )  # fmt: skip
    return out.sum(0) if parts > 1 else out[0]


def _gradient_of_y(sampled: Sampled, grad: Tensor) -> Tensor:
    x, y, index, scale = sampled
    m, d = y.shape
    dy = empty(y, (m, d), y.dtype)
    if m == 0:
        return dy
    # Wrong indices must not pass for right ones when they are cut to 32 bits, in which the sort is faster.
    keys = torch.where((index >= 0) & (index < m), index, -1).flatten().to(torch.int32 if m < 2**31 else torch.int64)
    keys, order = keys.sort(stable=True)
    ends = torch.searchsorted(keys, torch.arange(m + 1, dtype=keys.dtype, device=keys.device))
    block_k, block_d = TILE.sides(d)
    column_blocks = cdiv(d, block_d)
    kernels.gradient_of_y_kernel[(m * column_blocks,)](
        x, order, ends, grad, scale, dy, index.shape[1], d, x.stride(0), column_blocks,
        BLOCK_K=block_k, BLOCK_D=block_d, num_warps=TILE.warps,
    )  # fmt: skip
    return dy


def _readable(sampled: Sampled) -> Sampled:
    """Return the same pairs with strides that the kernels take."""
    x, y, index, scale = sampled
    return Sampled(rows_of(x), rows_of(y), index.contiguous(), scale)
