# SPDX-License-Identifier: Apache-2.0
"""Tiles of s*X*Y^T in Triton: products at any D, whose epilogue keeps sums or weights of a tile, and not its logits.

    T = s*X_i*Y_j^T + b_j                       2*m*n*D operations, both blocks from L2
    sums      (peak, total) of each row, and of each column where asked; 8 bytes for each of them in a tile
    weights   G = g_i*e^(T - lse_i) + h_j*e^(T - lse_j), stored for two matrix products; 2 bytes per pair

One exponential serves the row and the column of a pair: both sums are taken above the top of the tile. Only where a
tile spans so much that a sum above its top would lose digits, each row and column is summed above its own.
X with itself needs the tiles on and below the diagonal alone, because one below it holds the columns of the one above.
Float32 products come from cuBLAS instead: the tile is then loaded, 4 bytes per pair, and everything else is the same.
"""

import triton
import triton.language as tl

from sslkernels.ops.similarity.triton_kernels import (
    drop_labels,
    drop_listed,
    drop_views,
    load_lse,
    reference_point,
    unit_of,
)
from sslkernels.ops.triton_pieces import INF, exp, grouped, pairs, triangle

# A sum above the top of a tile serves if it is at least e^-55. Exponentials vanish in float32 below e^-87, and what is
# lost there is less than e^-32 of such a sum.
LEAST = tl.constexpr(1.3e-24)
# Tiles in a column of tiles that run one after another. They share what they load of y.
GROUP = 8


@triton.jit
def _tile(place, row_tiles, column_tiles, TRIANGLE: tl.constexpr, GROUP: tl.constexpr):
    """Row and column of a tile, and if it is there.

    A triangle is made of squares of GROUP x GROUP tiles. In those on the diagonal, tiles above it are not there.
    """
    if TRIANGLE:
        band, square = triangle(place // (GROUP * GROUP))
        within = place % (GROUP * GROUP)
        row, column = band * GROUP + within % GROUP, square * GROUP + within // GROUP
        return row, column, (row < row_tiles) & (column <= row)
    else:
        row, column = grouped(place, row_tiles, column_tiles, GROUP)
        return row, column, row < row_tiles


@triton.jit
def tile_logits(
    x, y, factor, bias, first_row, first_column, n, m, d, x_stride, y_stride,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of logits. Without y, x holds the products. ``bias`` of columns may be None."""
    rows = first_row + tl.arange(0, BLOCK)
    columns = first_column + tl.arange(0, BLOCK)
    if y is None:
        inside = (rows[:, None] < n) & (columns[None, :] < m)
        products = tl.load(pairs(x, rows, columns, x_stride), mask=inside, other=0.0)
    else:
        features = tl.arange(0, BLOCK_K)
        left = pairs(x, rows, features, x_stride)
        right = pairs(y, columns, features, y_stride)
        products = tl.zeros((BLOCK, BLOCK), tl.float32)
        for first in tl.range(0, d, BLOCK_K, num_stages=STAGES):
            known = features[None, :] < d - first
            a = tl.load(left, mask=known & (rows[:, None] < n), other=0.0)
            b = tl.load(right, mask=known & (columns[:, None] < m), other=0.0)
            products = tl.dot(a, tl.trans(b), products)
            left += BLOCK_K
            right += BLOCK_K
    if bias is None:
        return products * factor
    else:
        return products * factor + tl.load(bias + columns, mask=columns < m, other=0.0)[None, :]


@triton.jit
def _negatives(
    x, y, factor, exclude, bias, row_labels, column_labels, row_block, column_block, n, m, d, x_stride, y_stride, count,
    first_row, first_column, start, step, listed, VIEWS: tl.constexpr, ALIKE: tl.constexpr, BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of logits, -inf where pairs are left out and beyond N and M."""
    logits = tile_logits(
        x, y, factor, bias, row_block, column_block, n, m, d, x_stride, y_stride, BLOCK, BLOCK_K, STAGES
    )
    if row_labels is not None:
        logits = drop_labels(logits, row_labels, column_labels, row_block, column_block, n, m, ALIKE, -INF)
    rows = row_block + tl.arange(0, BLOCK)
    if (row_block + BLOCK > n) | (column_block + BLOCK > m):
        columns = column_block + tl.arange(0, BLOCK)
        logits = tl.where((rows[:, None] < n) & (columns[None, :] < m), logits, -INF)
    if exclude is None:
        return drop_views(logits, start, step, count, first_row + row_block, first_column + column_block, VIEWS, -INF)
    else:
        listers = tl.where(rows < n, first_row + rows, count)
        return drop_listed(logits, exclude, listers, count, listed, first_column + column_block, -INF)


@triton.jit(do_not_specialize=["total_n", "total_m", "count", "first_row", "first_column", "start", "step", "listed"])
def tile_sums_kernel(
    x, y, scale, exclude, bias, row_labels, column_labels, row_peaks, row_totals, column_peaks, column_totals,
    n, m, d, x_stride, y_stride, total_n, total_m, count, first_row, first_column, start, step, listed,
    VIEWS: tl.constexpr, ALIKE: tl.constexpr, TRIANGLE: tl.constexpr, APART: tl.constexpr, GROUP: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """(peak, total) of the rows of each tile, (column tiles, total_n), and of its columns, (row tiles, total_m).

    A chunk of all pairs begins at ``first_row`` and ``first_column``. Pointers stand at its first rows, columns and
    tiles, but ``exclude`` at the first of all ``count`` rows. TRIANGLE: x with itself, where the tiles below the
    diagonal give the sums of the rows above it: ``column_peaks`` and ``column_totals`` are those of the rows.
    APART: sum rows and columns above their own tops where needed. Without it no logits may span more than e^55.
    """
    row_tiles, column_tiles = tl.cdiv(n, BLOCK), tl.cdiv(m, BLOCK)
    row, column, there = _tile(tl.program_id(0), row_tiles, column_tiles, TRIANGLE, GROUP)
    if not there:
        return
    row_block, column_block = row * BLOCK, column * BLOCK
    factor = tl.load(scale)
    logits = _negatives(
        x, y, factor, exclude, bias, row_labels, column_labels, row_block, column_block, n, m, d, x_stride, y_stride,
        count, first_row, first_column, start, step, listed, VIEWS, ALIKE, BLOCK, BLOCK_K, STAGES,
    )  # fmt: skip
    rows = row_block + tl.arange(0, BLOCK)
    columns = column_block + tl.arange(0, BLOCK)
    row_state = column.to(tl.int64) * total_n + rows
    column_state = row.to(tl.int64) * total_m + columns
    if column_peaks is None:
        _store_rows(row_peaks, row_totals, row_state, rows < n, logits)
    else:
        beside = columns < m
        if TRIANGLE:  # the rows of a tile on the diagonal have its sums already
            beside = columns < tl.where(row == column, 0, m)
        top = tl.max(tl.max(logits, 1), 0)
        weights = exp(logits - reference_point(top))
        row_total, column_total = tl.sum(weights, 1), tl.sum(weights, 0)
        least = tl.minimum(
            tl.min(tl.where(rows < n, row_total, 1.0), 0), tl.min(tl.where(columns < m, column_total, 1.0), 0)
        )
        if (not APART) or ((least >= LEAST) & (tl.abs(top) < INF)):
            tl.store(row_peaks + row_state, tl.zeros_like(row_total) + top, mask=rows < n)
            tl.store(row_totals + row_state, row_total, mask=rows < n)
            tl.store(column_peaks + column_state, tl.zeros_like(column_total) + top, mask=beside)
            tl.store(column_totals + column_state, column_total, mask=beside)
        else:  # We form the logits again, since two tiles at once exceed the registers.
            logits = _negatives(
                x, y, factor, exclude, bias, row_labels, column_labels, row_block, column_block, n, m, d, x_stride,
                y_stride, count, first_row, first_column, start, step, listed, VIEWS, ALIKE, BLOCK, BLOCK_K, 1,
            )  # fmt: skip
            _store_rows(row_peaks, row_totals, row_state, rows < n, logits)
            _store_columns(column_peaks, column_totals, column_state, beside, logits)


@triton.jit
def _store_rows(peaks, totals, state, known, logits):
    peak = tl.max(logits, 1)
    tl.store(peaks + state, peak, mask=known)
    tl.store(totals + state, tl.sum(exp(logits - reference_point(peak)[:, None]), 1), mask=known)


@triton.jit
def _store_columns(peaks, totals, state, known, logits):
    peak = tl.max(logits, 0)
    tl.store(peaks + state, peak, mask=known)
    tl.store(totals + state, tl.sum(exp(logits - reference_point(peak)[None, :]), 0), mask=known)


@triton.jit(do_not_specialize=["count", "first_row", "first_column", "start", "step", "listed", "largest_count"])
def tile_weights_kernel(
    x, y, weights_out, scale, exclude, bias, row_labels, column_labels, lse, grad, other_lse, other_grad, largest,
    n, m, d, x_stride, y_stride, out_stride, count, first_row, first_column, start, step, listed, largest_count,
    VIEWS: tl.constexpr, ALIKE: tl.constexpr, MIRROR: tl.constexpr, ROOM: tl.constexpr,
    GROUP: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """G of a chunk, over `unit_of` ``largest``, in the dtype of ``weights_out``, which may hold the products.

    It has room for whole tiles, so that stores need no mask and go out in wide words. Pointers to rows and columns are
    at the chunk's first ones, but ``exclude`` at the first of all ``count`` rows. Without ``grad`` the own term has the
    weight ROOM. MIRROR: G is symmetric, and each tile below the diagonal is stored above it too.
    """
    row_tiles, column_tiles = tl.cdiv(n, BLOCK), tl.cdiv(m, BLOCK)
    row, column, there = _tile(tl.program_id(0), row_tiles, column_tiles, MIRROR, GROUP)
    if not there:
        return
    row_block, column_block = row * BLOCK, column * BLOCK
    logits = tile_logits(
        x, y, tl.load(scale), bias, row_block, column_block, n, m, d, x_stride, y_stride, BLOCK, BLOCK_K, STAGES
    )
    rows = row_block + tl.arange(0, BLOCK)
    columns = column_block + tl.arange(0, BLOCK)
    room = 1.0 / unit_of(largest, largest_count)
    weights = tl.zeros((BLOCK, BLOCK), tl.float32)
    if lse is not None:
        row_grad = tl.full((BLOCK,), ROOM, tl.float32)
        if grad is not None:
            row_grad = tl.load(grad + rows, mask=rows < n, other=0.0) * room
        weights += row_grad[:, None] * exp(logits - load_lse(lse, rows, n)[:, None])
    if other_lse is not None:
        column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0) * room
        weights += column_grad[None, :] * exp(logits - load_lse(other_lse, columns, m)[None, :])
    if exclude is None:
        weights = drop_views(
            weights, start, step, count, first_row + row_block, first_column + column_block, VIEWS, 0.0
        )
    else:
        listers = tl.where(rows < n, first_row + rows, count)
        weights = drop_listed(weights, exclude, listers, count, listed, first_column + column_block, 0.0)
    if row_labels is not None:
        weights = drop_labels(weights, row_labels, column_labels, row_block, column_block, n, m, ALIKE, 0.0)
    weights = weights.to(weights_out.dtype.element_ty)
    tl.store(pairs(weights_out, rows, columns, out_stride), weights)
    if MIRROR:
        if row != column:
            tl.store(pairs(weights_out, columns, rows, out_stride), tl.trans(weights))
