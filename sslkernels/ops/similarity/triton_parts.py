# SPDX-License-Identifier: Apache-2.0
"""The last steps of both ways through the pairs: join the parts that programs left, and finish gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from sslkernels.ops.similarity import triton_kernels as kernels
from sslkernels.ops.triton_launch import cdiv, floats, row_tile

# Float16 weights, at most 1, are multiplied by this: those of 65536 equal pairs, 2^-16, would be subnormal otherwise.
HEADROOM = 2.0**14


def merge(peaks: Tensor, totals: Tensor, into: Tensor | None = None) -> Tensor:
    """lse (N,) of running sums (parts, N), in ``into`` or a new tensor."""
    parts, n = peaks.shape
    lse = floats(peaks, n) if into is None else into
    kernels.merge_kernel[(cdiv(n, 128),)](peaks, totals, lse, n, parts, BLOCK=128, num_warps=4)
    return lse


def gradient(moved: Tensor, x: Tensor, scale: Tensor, unit: Tensor | None, need: bool) -> tuple[Tensor, Tensor]:
    """dx, empty unless there is ``need``, and its rows' shares in the gradient of the scale, from O (parts, N, D)."""
    dx = x.new_empty(tuple(x.shape)) if need else x.new_empty(0)
    row_dscale = floats(x, x.shape[0])
    finish(moved, x, scale, unit, dx if need else None, row_dscale)
    return dx, row_dscale


def finish(moved: Tensor, x: Tensor, scale: Tensor, unit: Tensor | None, dx: Tensor | None, row_dscale: Tensor) -> None:
    n, d = x.shape
    size = row_tile(d)
    kernels.gradient_kernel[(cdiv(n, size["BLOCK_N"]),)](
        moved, x, scale, unit, dx, row_dscale, n, d, x.stride(0), moved.shape[0], **size
    )


def headroom(x: Tensor) -> float:
    return HEADROOM if x.dtype == torch.float16 else 1.0


def with_headroom(
    *terms: tuple[Tensor, Tensor] | None,
) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None, Tensor]:
    """Divide gradients to at most 2^14, so that float16 weights keep their digits. Also returns the divisor."""
    # One row's infinity or NaN must not become that of all.
    grads = [term[1].nan_to_num(0, 0, 0) for term in terms if term is not None]
    largest = torch.stack([torch.linalg.vector_norm(grad, torch.inf) for grad in grads]).amax()
    unit = largest.clamp_min(2.0**-100) / HEADROOM
    first, second = (None if term is None else (term[0], term[1] / unit) for term in terms)
    return first, second, unit
