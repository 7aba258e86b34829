# SPDX-License-Identifier: Apache-2.0
"""Nearest rows in Triton: tiles of products, of which each row keeps its best as sorted whole numbers.

    scores     S = X_i*Y_j^T + bias_j                         2*N*M*D operations
    key        bits of the score, ordered, above 2^31 - 1 - j: larger for a better score, or the lower column of two
    best       a tile gives its largest key to the rows that lack it, one per row and round, until no row takes one;
               after the first tiles most have no round
    distances  |x_i - y_j| of the winners, from differences    3*N*k*D operations

Programs form a grid of problems, row blocks and column programs. Each leaves the best of its columns.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF, load_rows, pairs

# The key of a pair that cannot be found. Places of a row's list begin above it, each with a key of its own.
NOTHING = tl.constexpr(-(2**63))
LAST = tl.constexpr(2**31 - 1)


@triton.jit
def _keys(scores, columns):
    """Order scores, and equal ones by the lower column; NaN and -inf become `NOTHING`."""
    bits = tl.where(scores == 0.0, 0.0, scores).to(tl.int32, bitcast=True)  # -0 and 0 are equal
    ordered = tl.where(bits < 0, bits ^ LAST, bits).to(tl.int64)
    return tl.where(scores > -INF, (ordered << 32) + (-columns + LAST)[None, :].to(tl.int64), NOTHING)


@triton.jit(do_not_specialize=["n", "m", "row_blocks", "column_programs", "excluded"])
def best_kernel(
    x, y, bias, exclude, bound, best_out,
    n, m, d, excluded, row_blocks, column_programs, x_stride, y_stride, x_apart, y_apart,
    ITSELF: tl.constexpr, PRECISION: tl.constexpr, KEPT: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The KEPT largest keys of each row (problems, N, column_programs, KEPT), in any order.

    Keys are below those of ``bound`` (problems, N) unless it is None.
    """
    column_program = tl.program_id(0) % column_programs
    block = tl.program_id(0) // column_programs % row_blocks
    problem = (tl.program_id(0) // column_programs // row_blocks).to(tl.int64)
    x += problem * x_apart
    y += problem * y_apart
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    state = problem * n + rows
    kept = tl.zeros((BLOCK_N, KEPT), tl.int64) + (tl.arange(0, KEPT).to(tl.int64) + (NOTHING + 1))[None, :]
    worst = tl.min(kept, 1)
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    for first in range(column_program * span, tl.minimum((column_program + 1) * span, m), BLOCK_M):
        columns = first + tl.arange(0, BLOCK_M)
        scores = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        for feature in tl.range(0, d, BLOCK_D, num_stages=STAGES):
            features = feature + tl.arange(0, BLOCK_D)
            left = load_rows(x, rows, features, n, d, x_stride)
            right = load_rows(y, columns, features, m, d, y_stride)
            scores = tl.dot(left, tl.trans(right), scores, input_precision=PRECISION)
        if bias is not None:
            scores += tl.load(bias + problem * m + columns, mask=columns < m, other=0.0)[None, :]
        scores = tl.where((columns < m)[None, :], scores, -INF)
        if ITSELF:
            scores = tl.where(rows[:, None] == columns[None, :], -INF, scores)
        if exclude is not None:
            for entry in range(excluded):
                left_out = tl.load(exclude + state * excluded + entry, mask=rows < n, other=-1)
                scores = tl.where(left_out[:, None] == columns[None, :], -INF, scores)
        keys = _keys(scores, columns)
        if bound is not None:
            keys = tl.where(keys < tl.load(bound + state, mask=rows < n, other=NOTHING)[:, None], keys, NOTHING)
        best = tl.max(keys, 1)
        while tl.max((best > worst).to(tl.int32), 0) > 0:
            taken = (kept == worst[:, None]) & (best > worst)[:, None]
            kept = tl.where(taken, best[:, None], kept)
            keys = tl.where(keys == best[:, None], NOTHING, keys)
            best = tl.max(keys, 1)
            worst = tl.min(kept, 1)
    places = pairs(best_out, state * column_programs + column_program, tl.arange(0, KEPT), KEPT)
    tl.store(places, kept, mask=(rows < n)[:, None])


@triton.jit(do_not_specialize=["n", "k", "count"])
def distances_kernel(
    x, y, indices, distances_out, n, k, d, count, x_stride, y_stride, x_apart, y_apart,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """|x_i - y_j| (problems, N, k) for the columns j of ``indices``; those of -1 are infinite."""
    places = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.load(indices + places, mask=places < count, other=-1)
    problems = places // k // n
    from_x = x + problems * x_apart + places // k % n * x_stride
    from_y = y + problems * y_apart + columns * y_stride
    total = tl.zeros((BLOCK_N,), tl.float32)
    for feature in range(0, d, BLOCK_D):
        features = feature + tl.arange(0, BLOCK_D)
        inside = (columns >= 0)[:, None] & (features < d)[None, :]
        left = tl.load(from_x[:, None] + features[None, :], mask=inside, other=0.0).to(tl.float32)
        right = tl.load(from_y[:, None] + features[None, :], mask=inside, other=0.0).to(tl.float32)
        total += tl.sum((left - right) * (left - right), 1)
    tl.store(distances_out + places, tl.where(columns < 0, INF, tl.sqrt(total)), mask=places < count)
