# SPDX-License-Identifier: Apache-2.0
"""The fused sweeps in Triton: a program keeps a block of rows in registers and streams the other side past it.

    attend    (peak, total) of rows, and sum_j e^(S_ij - peak_i)*y_j       4*N*M*D operations
    move      O = G*Y,  G_ij = g_i*e^(S_ij - lse_i) + h_j*e^(S_ij - lse_j)  4*N*M*D operations
    bytes     O((N + M)*D)

They serve 16-bit rows of D <= 128, padded with zeros to a multiple of 16, which leave registers for the logits and for
what moves the rows.
Programs form a grid of row blocks by column programs; each column program leaves a part, and parts are joined in a
fixed order.
"""

import triton
import triton.language as tl

from sslkernels.ops.similarity.triton_kernels import drop_views, load_lse, reference_point, unit_of
from sslkernels.ops.triton_pieces import INF, exp, load_rows, pairs


@triton.jit
def _span(m, column_programs, BLOCK_M: tl.constexpr):
    """The row block and column program of this program, and the columns that it streams."""
    column_program = tl.program_id(0) % column_programs
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    begin = column_program * span
    return tl.program_id(0) // column_programs, column_program, begin, tl.minimum(begin + span, m)


@triton.jit
def _logits(queries, keys, factor, first, m):
    logits = tl.dot(queries, tl.trans(keys)) * factor
    if first + keys.shape[0] > m:  # absent columns of infinite rows are NaN
        logits = tl.where((first + tl.arange(0, keys.shape[0]) < m)[None, :], logits, -INF)
    return logits


@triton.jit(do_not_specialize=["n", "m", "start", "step", "column_programs"])
def attend_kernel(
    x, y, scale, row_peaks, row_totals, attended,
    n, m, d, out_d, x_stride, y_stride, start, step, column_programs,
    VIEWS: tl.constexpr, ROOM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Running (peak, total) of rows, (column_programs, N), and sums of e^S*y, (column_programs, N, D).

    ROOM, a power of two, multiplies the weights of y, which are at most 1: small ones survive rounding to float16.
    """
    block, column_program, begin, end = _span(m, column_programs, BLOCK_M)
    factor = tl.load(scale)
    features = tl.arange(0, BLOCK_D)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    queries = load_rows(x, rows, features, n, d, x_stride)
    peak = tl.full((BLOCK_N,), -INF, tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(begin, end, BLOCK_M):
        keys = load_rows(y, first + tl.arange(0, BLOCK_M), features, m, d, y_stride)
        logits = _logits(queries, keys, factor, first, m)
        logits = drop_views(logits, start, step, n, block * BLOCK_N, first, VIEWS, -INF)
        new = tl.maximum(peak, tl.max(logits, 1))
        point = reference_point(new)
        weights = exp(logits - point[:, None])
        fade = exp(peak - point)
        peak, total = new, total * fade + tl.sum(weights, 1)
        moved = tl.dot((weights * ROOM).to(keys.dtype), keys, moved * fade[:, None])
    state = column_program.to(tl.int64) * n + rows
    tl.store(row_peaks + state, peak, mask=rows < n)
    tl.store(row_totals + state, total, mask=rows < n)
    inside = (rows[:, None] < n) & (features[None, :] < out_d)
    tl.store(pairs(attended, state, features, out_d), moved / ROOM, mask=inside)


@triton.jit(do_not_specialize=["n", "m", "start", "step", "column_programs", "largest_count"])
def move_kernel(
    x, y, scale, lse, grad, other_lse, other_grad, largest, moved_out,
    n, m, d, out_d, x_stride, y_stride, start, step, column_programs, largest_count,
    VIEWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """O = G*Y of a block of rows, (column_programs, N, D), over `unit_of` ``largest``.

    ``lse`` and ``grad`` give the own term of G, from the sums of x's rows; ``other_lse`` and ``other_grad`` give the
    other term, from the sums of y's rows. Either pair may be None.
    """
    block, column_program, begin, end = _span(m, column_programs, BLOCK_M)
    factor = tl.load(scale)
    features = tl.arange(0, BLOCK_D)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    queries = load_rows(x, rows, features, n, d, x_stride)
    room = 1.0 / unit_of(largest, largest_count)
    if lse is not None:
        row_lse = load_lse(lse, rows, n)
        row_grad = tl.load(grad + rows, mask=rows < n, other=0.0) * room
    moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(begin, end, BLOCK_M):
        columns = first + tl.arange(0, BLOCK_M)
        keys = load_rows(y, columns, features, m, d, y_stride)
        logits = _logits(queries, keys, factor, first, m)
        weights = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        if lse is not None:
            weights += row_grad[:, None] * exp(logits - row_lse[:, None])
        if other_lse is not None:
            column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0) * room
            weights += column_grad[None, :] * exp(logits - load_lse(other_lse, columns, m)[None, :])
        weights = drop_views(weights, start, step, n, block * BLOCK_N, first, VIEWS, 0.0)
        moved = tl.dot(weights.to(keys.dtype), keys, moved)
    inside = (rows[:, None] < n) & (features[None, :] < out_d)
    tl.store(pairs(moved_out, column_program.to(tl.int64) * n + rows, features, out_d), moved, mask=inside)
