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


@triton.jit
def triangle(place):
    """Row and column of a tile of the lower triangle, counted row by row."""
    row = ((tl.sqrt(8.0 * place + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > place, row - 1, row)  # the root is rounded
    row = tl.where((row + 1) * (row + 2) // 2 <= place, row + 1, row)
    return row, place - row * (row + 1) // 2


@triton.jit
def grouped(place, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Row and column of a tile of a rectangle. In this order, tiles that run together share rows and columns."""
    first = place // (GROUP * column_tiles) * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    within = place % (GROUP * column_tiles)
    return first + within % size, within // size
