# SPDX-License-Identifier: Apache-2.0
"""Pieces that the Triton kernels of several families share."""

import triton
import triton.language as tl
from triton.language.extra.cuda import libdevice

INF = tl.constexpr(float("inf"))
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def exp(x):
    """e^x of float32 in two instructions, zero below 2^-126: ``tl.exp`` spends three more on such small results.

    The interpreter knows nothing of libdevice.
    """
    if _INTERPRETED:
        return tl.exp(x)
    else:
        return libdevice.fast_expf(x)


@triton.jit
def pairs(x, rows, columns, stride):
    """Pointers to (row, column): int64 per row, so that only the offset within a row is 32 bits wide."""
    return (x + rows.to(tl.int64) * stride)[:, None] + columns[None, :]


@triton.jit
def load_rows(x, rows, columns, n, d, stride):
    """A tile of x (N, D) in its dtype, zero beyond N and D."""
    inside = (rows[:, None] < n) & (columns[None, :] < d)
    return tl.load(pairs(x, rows, columns, stride), mask=inside, other=0.0)
