# SPDX-License-Identifier: Apache-2.0
"""The sigmoid family in Triton: a tile of logits becomes sums of softplus, and weights for two matrix products.

    T = X_i*Y_j^T                               2*m*n*D operations, both blocks from L2
    U = s*T + b                                 where a row and its column belong together, of the other sign
    sums      sum_j softplus(U_ij) of each row of a tile, or of the whole tile: 4 bytes for each
    weights   G = g_i*sigmoid(U), stored for dX = s*G*Y and dY = s*G^T*X; 2 bytes per pair (4 for float32)
    slopes    sum G.T and sum G of a tile, 8 bytes

No weight waits for a sum, so one kernel does it all, and value and gradient take 6*N*M*D operations. There are no
atomics: sums of tiles are added afterwards in a fixed order. Float32 products come from cuBLAS, and the tile is loaded.
"""

import triton
import triton.language as tl

from sslkernels.ops.similarity.triton_tile_kernels import tile_logits
from sslkernels.ops.triton_pieces import INF, exp, grouped, pairs


@triton.jit
def softplus(u, e):
    """log(1 + e^u), given e = e^-|u|; small e keep their digits. The polynomial is csrc/cpu/sigmoid/softplus.h's."""
    p = e * 0.00523268804 - 0.02950521372
    p = p * e + 0.07822591066
    p = p * e - 0.1366324276
    p = p * e + 0.1910600513
    p = p * e - 0.2484298199
    p = p * e + 0.3331909776
    p = p * e - 0.4999949336
    p = p * e + 0.9999999404
    return tl.maximum(u, 0.0, propagate_nan=tl.PropagateNan.ALL) + p * e


@triton.jit(do_not_specialize=["total_n", "total_m", "first_row", "first_column"])
def tile_kernel(
    x, y, scale, bias, row_weights, unit, weights_out, row_sums, tile_sums,
    n, m, d, x_stride, y_stride, out_stride, total_n, total_m, first_row, first_column,
    PAIRED: tl.constexpr, SLOPES: tl.constexpr, ROOM: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of a chunk that begins at ``first_row`` and ``first_column`` of all pairs.

    ``row_sums (column tiles, n)`` takes the sums of each tile's rows. ``tile_sums (3, all tiles)`` takes the sums over
    a tile of softplus and, if SLOPES, of G.T and G. ``weights_out`` takes ROOM * G / unit, in whole tiles; it may be x
    itself, which holds the products where there is no y. Each may be None, and so may the weights of rows, which then
    are 1.
    """
    row_tiles, column_tiles = tl.cdiv(n, BLOCK), tl.cdiv(m, BLOCK)
    row, column = grouped(tl.program_id(0), row_tiles, column_tiles, GROUP)
    row_block, column_block = row * BLOCK, column * BLOCK
    products = tile_logits(
        x, y, 1.0, None, row_block, column_block, n, m, d, x_stride, y_stride, BLOCK, BLOCK_K, STAGES
    )
    rows = row_block + tl.arange(0, BLOCK)
    columns = column_block + tl.arange(0, BLOCK)
    u = products * tl.load(scale) + tl.load(bias)
    apart = (first_row + row_block) - (first_column + column_block)
    crossed = PAIRED & (apart < BLOCK) & (apart > -BLOCK)
    if crossed:
        u = tl.where((rows + first_row)[:, None] == (columns + first_column)[None, :], -u, u)
    if (row_block + BLOCK > n) | (column_block + BLOCK > m):
        inside = (rows[:, None] < n) & (columns[None, :] < m)
        products = tl.where(inside, products, 0.0)
        u = tl.where(inside, u, -INF)
    e = exp(-tl.abs(u))
    values = softplus(u, e)
    if row_sums is not None:
        tl.store(row_sums + column.to(tl.int64) * n + rows, tl.sum(values, 1), mask=rows < n)
    if tile_sums is not None:
        tiles_across = tl.cdiv(total_m, BLOCK)
        tiles = tiles_across * tl.cdiv(total_n, BLOCK)
        place = tile_sums + (first_row // BLOCK + row) * tiles_across + first_column // BLOCK + column
        tl.store(place, tl.sum(tl.sum(values, 1), 0))
        if SLOPES:
            weights = tl.where(u < 0.0, e, 1.0) / (1.0 + e)
            if crossed:
                weights = tl.where((rows + first_row)[:, None] == (columns + first_column)[None, :], -weights, weights)
            room = ROOM
            if row_weights is not None:
                weights *= tl.load(row_weights + rows, mask=rows < n, other=0.0)[:, None]
                if unit is not None:
                    room /= tl.load(unit)
            tl.store(place + tiles, tl.sum(tl.sum(weights * products, 1), 0))
            tl.store(place + 2 * tiles, tl.sum(tl.sum(weights, 1), 0))
            if weights_out is not None:
                weights = (weights * room).to(weights_out.dtype.element_ty)
                tl.store(pairs(weights_out, rows, columns, out_stride), weights)
