# SPDX-License-Identifier: Apache-2.0
"""The attention family in Triton: softmax(S) @ V with S = s*Q*K^T + bias, and its gradients, without the matrix.

    attend   (peak, total) of rows, and sum_j e^(S_ij - peak_i)*v_j     2*N*M*(D + Dv) operations
    pull     P = e^(S - lse),  dS = P*(dO*V^T - delta),  delta_i = <dO_i, O_i>
             of queries  dS*K                                           4*N*M*D + 2*N*M*Dv
             of keys     dS^T*Q, P^T*dO and the column sums of dS       4*N*M*(D + Dv)
    bytes    O((N + M)*(D + Dv))

A program keeps the sums of a block of rows in registers and streams the other side past it. It has one slice of their
features; rows with more take a program per slice, and each forms the logits again. Products walk along slices too.
Programs form a grid of blocks, parts and slices: the other side is split into parts where blocks alone would not fill
the device. Each leaves a sum of its own, and parts are joined in a fixed order. There are no atomics. Rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.similarity.triton_kernels import reference_point
from sslkernels.ops.triton_pieces import INF, exp, load_rows, pairs


@triton.jit
def _place(n, m, parts, slices, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """The block, part and slice of this program, and the rows of the other side that it streams."""
    place = tl.program_id(0)
    part = place // slices % parts
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), parts) * BLOCK_M
    return place // slices // parts, part, place % slices, part * span, tl.minimum(part * span + span, m)


@triton.jit
def _product(
    x, y, rows, columns, n, m, d, x_stride, y_stride, WIDE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """<x_i, y_j> of a tile, slice by slice; rows are multiplied in the dtype WIDE."""
    total = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        left = load_rows(x, rows, features, n, d, x_stride).to(WIDE)
        right = load_rows(y, columns, features, m, d, y_stride).to(WIDE)
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
    return total


@triton.jit
def _drop(tile, exclude, listed, n, rows, first, first_row, OWN: tl.constexpr, NOTHING: tl.constexpr):
    """Write NOTHING where row i of ``exclude`` (n, listed) names key j.

    The tile's rows are queries, its columns keys from ``first``; or, unless OWN, its rows are keys from ``first_row``
    and its columns the queries ``rows``.
    """
    width: tl.constexpr = tile.shape[1] if OWN else tile.shape[0]
    start = first if OWN else first_row
    for place in range(listed):
        key = tl.load(exclude + rows.to(tl.int64) * listed + place, mask=rows < n, other=-1) - start
        key = tl.where((key >= 0) & (key < width), key, -1).to(tl.int32)
        if tl.max(key, 0) >= 0:
            if OWN:
                tile = tl.where(key[:, None] == tl.arange(0, width)[None, :], NOTHING, tile)
            else:
                tile = tl.where(key[None, :] == tl.arange(0, width)[:, None], NOTHING, tile)
    return tile


@triton.jit
def _load_lse(lse, indices, n):
    """Load lse, as +inf where nothing was left to sum: weights are zero there. Under a logit of +inf they are NaN."""
    loaded = tl.load(lse + indices, mask=indices < n, other=-INF)
    return tl.where(loaded == -INF, INF, tl.where(loaded == INF, loaded - loaded, loaded))


@triton.jit(do_not_specialize=["n", "m", "listed", "parts", "slices"])
def attend_kernel(
    query, keys, values, scale, bias, exclude, peaks, totals, attended,
    n, m, d, dv, out_dv, query_stride, keys_stride, values_stride, listed, parts, slices,
    WIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Running (peak, total) of rows, (parts, N), and sums of e^S*v, (parts, N, Dv). Bias and exclude may be None."""
    block, part, piece, begin, end = _place(n, m, parts, slices, BLOCK_N, BLOCK_M)
    factor = tl.load(scale)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    features = piece * BLOCK_V + tl.arange(0, BLOCK_V)
    peak = tl.full((BLOCK_N,), -INF, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    moved = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    for first in range(begin, end, BLOCK_M):
        columns = first + tl.arange(0, BLOCK_M)
        logits = factor * _product(
            query, keys, rows, columns, n, m, d, query_stride, keys_stride, query.dtype.element_ty, PRECISION, BLOCK_D
        )
        if bias is not None:
            logits += tl.load(bias + columns, mask=columns < m, other=0.0)[None, :]
        logits = tl.where((columns < m)[None, :], logits, -INF)
        if exclude is not None:
            logits = _drop(logits, exclude, listed, n, rows, first, first, True, -INF)
        new = tl.maximum(peak, tl.max(logits, 1))
        point = reference_point(new)
        weights = exp(logits - point[:, None])
        fade = exp(peak - point)
        peak, total = new, total * fade + tl.sum(weights, 1)
        loaded = load_rows(values, columns, features, m, dv, values_stride).to(WIDE)
        moved = tl.dot(weights.to(WIDE), loaded, moved * fade[:, None], input_precision=PRECISION)
    state = part.to(tl.int64) * n + rows
    if piece == 0:
        tl.store(peaks + state, peak, mask=rows < n)
        tl.store(totals + state, total, mask=rows < n)
    inside = (rows[:, None] < n) & (features[None, :] < out_dv)
    tl.store(pairs(attended, state, features, out_dv), moved, mask=inside)


@triton.jit(do_not_specialize=["n", "m", "listed", "parts", "slices"])
def pull_kernel(
    x, y, x_by, y_by, scale, bias, exclude, lse, delta, moved_out, by_out, bias_out,
    n, m, d, dv, out_d, out_dv, x_stride, y_stride, x_by_stride, y_by_stride, listed, parts, slices,
    OWN: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum what pulls a block of the N rows of x, each (parts, N, ...): dS*Y, and of keys P^T*dO and the sums of dS.

    With OWN, x and x_by are the queries and dO, and y and y_by the keys and values; without, it is the other way round.
    Of the outputs, those not wanted are None; with OWN, only the first may be wanted. Bias and exclude may be None.
    """
    block, part, piece, begin, end = _place(n, m, parts, slices, BLOCK_N, BLOCK_M)
    factor = tl.load(scale)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    features, by_features = piece * BLOCK_D + tl.arange(0, BLOCK_D), piece * BLOCK_V + tl.arange(0, BLOCK_V)
    moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    by = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
    of_bias = tl.zeros((BLOCK_N,), tl.float32)
    slopes_wanted: tl.constexpr = moved_out is not None or bias_out is not None
    if OWN:
        row_lse, row_delta = _load_lse(lse, rows, n), tl.load(delta + rows, mask=rows < n, other=0.0)
    elif bias is not None:
        row_bias = tl.load(bias + rows, mask=rows < n, other=0.0)
    for first in range(begin, end, BLOCK_M):
        columns = first + tl.arange(0, BLOCK_M)
        inside = (rows < n)[:, None] & (columns < m)[None, :]
        logits = factor * _product(
            x, y, rows, columns, n, m, d, x_stride, y_stride, x.dtype.element_ty, PRECISION, BLOCK_K
        )
        if OWN:
            if bias is not None:
                logits += tl.load(bias + columns, mask=columns < m, other=0.0)[None, :]
            weights = exp(logits - row_lse[:, None])
        else:
            if bias is not None:
                logits += row_bias[:, None]
            weights = exp(logits - _load_lse(lse, columns, m)[None, :])
        weights = tl.where(inside, weights, 0.0)
        if exclude is not None:
            if OWN:
                weights = _drop(weights, exclude, listed, n, rows, first, first, True, 0.0)
            else:
                weights = _drop(weights, exclude, listed, m, columns, first, block * BLOCK_N, False, 0.0)
        if by_out is not None:
            loaded = load_rows(y_by, columns, by_features, m, dv, y_by_stride).to(WIDE)
            by = tl.dot(weights.to(WIDE), loaded, by, input_precision=PRECISION)
        if slopes_wanted:
            slopes = _product(x_by, y_by, rows, columns, n, m, dv, x_by_stride, y_by_stride, WIDE, PRECISION, BLOCK_K)
            if OWN:
                slopes = weights * (slopes - row_delta[:, None])
            else:
                slopes = weights * (slopes - tl.load(delta + columns, mask=columns < m, other=0.0)[None, :])
            slopes = tl.where(inside, slopes, 0.0)
            if exclude is not None:  # zero weights times what is no number
                if OWN:
                    slopes = _drop(slopes, exclude, listed, n, rows, first, first, True, 0.0)
                else:
                    slopes = _drop(slopes, exclude, listed, m, columns, first, block * BLOCK_N, False, 0.0)
            if bias_out is not None:
                of_bias += tl.sum(slopes, 1)
            if moved_out is not None:
                loaded = load_rows(y, columns, features, m, d, y_stride).to(WIDE)
                moved = tl.dot(slopes.to(WIDE), loaded, moved, input_precision=PRECISION)
    state = part.to(tl.int64) * n + rows
    if moved_out is not None:
        kept = (rows[:, None] < n) & (features[None, :] < out_d)
        tl.store(pairs(moved_out, state, features, out_d), moved, mask=kept)
    if by_out is not None:
        kept = (rows[:, None] < n) & (by_features[None, :] < out_dv)
        tl.store(pairs(by_out, state, by_features, out_dv), by, mask=kept)
    if bias_out is not None:
        if piece == 0:
            tl.store(bias_out + state, of_bias, mask=rows < n)
