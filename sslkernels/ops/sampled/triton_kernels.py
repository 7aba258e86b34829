# SPDX-License-Identifier: Apache-2.0
"""The sampled family in Triton: products of rows of x with the rows of y that an index names, and both gradients.

    products        out_ik = s <x_i, y_j>, or -inf, with j = index[i, k]; a program has a row of x and a block of k
    gradient of x   sum_k g_ik y_j of a part of the blocks of k, float32 (parts, N, D); the launcher adds the parts
    gradient of y   s sum of g_ik x_i over the entries of row j, which a stable sort by j has put side by side

Each reads N*K rows of D numbers, from L2 where the pool fits it, and takes 2*N*K*D operations in float32 on the CUDA
cores. The gradient of y writes each row once, in one program, and adds in the order of (i, k): no atomics, so the same
inputs give the same bits. A row that very many entries name takes as long as they are. An index outside [-1, M) is not
read and counts as a row of NaN. Offsets are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import pairs

INF = tl.constexpr(float("inf"))
NAN = tl.constexpr(float("nan"))


@triton.jit
def _named(index, i, places, k, m):
    """The rows of y that these entries of row i name, and whether they exist; -1 beyond the last entry."""
    j = tl.load(index + i * k + places, mask=places < k, other=-1).to(tl.int64)
    return j, (j >= 0) & (j < m)


@triton.jit
def _rows(x, rows, features, inside, d, stride):
    """Rows in float32, zero where they are not ``inside`` and beyond D."""
    there = inside[:, None] & (features[None, :] < d)
    return tl.load(pairs(x, rows, features, stride), mask=there, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["m", "k", "k_blocks"])
def products_kernel(
    x, y, index, scale, out, m, k, d, x_stride, y_stride, k_blocks, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    i = (tl.program_id(0) // k_blocks).to(tl.int64)
    places = tl.program_id(0) % k_blocks * BLOCK_K + tl.arange(0, BLOCK_K)
    j, inside = _named(index, i, places, k, m)
    total = tl.zeros((BLOCK_K,), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        own = tl.load(x + i * x_stride + features, mask=features < d, other=0.0).to(tl.float32)
        total += tl.sum(_rows(y, j, features, inside, d, y_stride) * own[None, :], 1)
    value = tl.where(inside, tl.load(scale) * total, tl.where(j == -1, -INF, NAN))
    tl.store(out + i * k + places, value, mask=places < k)


@triton.jit(do_not_specialize=["n", "m", "k", "parts", "column_blocks"])
def gradient_of_x_kernel(
    y, index, grad, out, n, m, k, d, y_stride, parts, column_blocks, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Program (part, i, block of features) takes every ``parts``-th block of the entries of row i."""
    row, column_block = tl.program_id(0) // column_blocks, tl.program_id(0) % column_blocks
    part, i = row // n, (row % n).to(tl.int64)
    features = column_block * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for block in range(part, tl.cdiv(k, BLOCK_K), parts):
        places = block * BLOCK_K + tl.arange(0, BLOCK_K)
        j, inside = _named(index, i, places, k, m)
        g = tl.load(grad + i * k + places, mask=inside, other=0.0)
        g = tl.where(inside | (j == -1), g, NAN)
        total += g[:, None] * _rows(y, j, features, inside, d, y_stride)
    tl.store(out + row.to(tl.int64) * d + features, tl.sum(total, 0), mask=features < d)


@triton.jit(do_not_specialize=["k", "column_blocks"])
def gradient_of_y_kernel(
    x, order, ends, grad, scale, dy, k, d, x_stride, column_blocks, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Program (j, block of features). ``order`` has the entries i*K + k sorted by row of y, ends[j] where j begins."""
    j = (tl.program_id(0) // column_blocks).to(tl.int64)
    features = tl.program_id(0) % column_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    first, end = tl.load(ends + j), tl.load(ends + j + 1)
    total = tl.zeros((BLOCK_K, BLOCK_D), tl.float32)
    for start in range(first, end, BLOCK_K):
        places = start + tl.arange(0, BLOCK_K)
        there = places < end
        entries = tl.load(order + places, mask=there, other=0)
        g = tl.load(grad + entries, mask=there, other=0.0)
        total += g[:, None] * _rows(x, entries // k, features, there, d, x_stride)
    value = tl.load(scale) * tl.sum(total, 0)
    tl.store(dy + j * d + features, value.to(dy.dtype.element_ty), mask=features < d)
