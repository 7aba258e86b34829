# SPDX-License-Identifier: Apache-2.0
"""The similarity family in Triton: log-sum-exp of s*X*Y^T over rows and columns, and its gradients, without the matrix.

    S_ij  = s*<x_i, y_j>, -inf where row i excludes column j
    lse_i = log sum_j e^S_ij             a running (peak, total) per row, and per column where asked
    G_ij  = g_i*e^(S_ij - lse_i) + h_j*e^(S_ij - lse_j)      never a product of exponentials: each is at most 1
    O = G*Y moves x, and G^T*X moves y: the same sweep with the two sides exchanged

triton_plan.py chooses between two ways through the pairs:
    fused    a program keeps a block of rows in registers and streams the other side past it; 16-bit rows of D <= 256
             2*N*M*D operations forward (4 with the attended keys), 4*N*M*D backward per side, O((N + M)*D) bytes
    chunked  a matrix product writes a chunk of logits and an epilogue reads it once; any dtype and D
             2*N*M*D operations forward, 6*N*M*D backward for both sides, 4 to 14 bytes per pair besides

Programs form a grid of row programs by column programs. Each owns a running (peak, total) for its rows and one for its
columns, which merge_kernel then joins in a fixed order: no atomics, so the same inputs give the same bits.
Logits and lse stay in the natural base although the hardware's is 2: converted and converted back, an lse of 1e8 moves
by several ulp, each a factor of e^8. Offsets of rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF, load_rows, pairs

# Float16 weights, at most 1, are multiplied by this: those of 65536 equal pairs, 2^-16, would be subnormal otherwise.
HEADROOM = tl.constexpr(2.0**14)

# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def _reference_point(peak):
    """The number to subtract before exponentiating: the peak, or 0 where it is infinite (inf - inf is NaN)."""
    return tl.where(tl.abs(peak) == INF, 0.0, peak)


@triton.jit
def _join_rows(peak, total, logits):
    """Join a tile to the running (peak, total) of its rows. Also returns its weights, and the factor for older ones."""
    new = tl.maximum(peak, tl.max(logits, 1))
    point = _reference_point(new)
    weights = tl.exp(logits - point[:, None])
    fade = tl.exp(peak - point)
    return new, total * fade + tl.sum(weights, 1), weights, fade


@triton.jit
def _join_columns(peaks, totals, state, columns, m, known, logits):
    """Join a tile to the (peak, total) of M columns in memory; only the first ``known`` of them were written before."""
    peak = tl.load(peaks + state + columns, mask=columns < known, other=-INF)
    total = tl.load(totals + state + columns, mask=columns < known, other=0.0)
    new = tl.maximum(peak, tl.max(logits, 0))
    point = _reference_point(new)
    total = total * tl.exp(peak - point) + tl.sum(tl.exp(logits - point[None, :]), 0)
    tl.store(peaks + state + columns, new, mask=columns < m)
    tl.store(totals + state + columns, total, mask=columns < m)


@triton.jit
def _drop(tile, excluded, first_row, first_column, BY_ROW: tl.constexpr, NOTHING: tl.constexpr):
    """Write NOTHING at one excluded index per row, or per column. Most tiles hold none, and skip the comparison."""
    size: tl.constexpr = tile.shape[1] if BY_ROW else tile.shape[0]
    first = first_column if BY_ROW else first_row
    place = excluded - first
    hit = (place >= 0) & (place < size)
    target = tl.where(hit, place, -1).to(tl.int32)
    if tl.max(target, 0) >= 0:
        if BY_ROW:
            tile = tl.where(target[:, None] == tl.arange(0, size)[None, :], NOTHING, tile)
        else:
            tile = tl.where(tl.arange(0, size)[:, None] == target[None, :], NOTHING, tile)
    return tile


@triton.jit
def _excluded(exclude, start, step, listers, count, place, EXCLUDED):
    """One of the indices that each of ``count`` listers leaves out, or -1: from the table, or from the layout of views.

    Without a table lister i leaves out start + (i + place*step) mod count.
    """
    if exclude is not None:
        return tl.load(exclude + listers.to(tl.int64) * EXCLUDED + place, mask=listers < count, other=-1)
    else:
        index = listers + place * step
        return tl.where(listers < count, start + tl.where(index < count, index, index - count), -1)


@triton.jit
def _drop_each(
    tile, exclude, start, step, listers, count, first_row, first_column,
    EXCLUDED: tl.constexpr, BY_ROW: tl.constexpr, NOTHING: tl.constexpr,
):  # fmt: skip
    """`_drop` for a few exclusions per lister, a row or column that lists them. They are unrolled, since an inner loop
    would keep the tile loop from pipelining.

    Excluded logits become -inf. Excluded weights become 0 after they are computed: e^(-inf - lse) is NaN where lse is.
    """
    for place in tl.static_range(EXCLUDED):
        excluded = _excluded(exclude, start, step, listers, count, place, EXCLUDED)
        tile = _drop(tile, excluded, first_row, first_column, BY_ROW, NOTHING)
    return tile


@triton.jit
def _drop_all(
    tile, exclude, start, step, listers, count, first_row, first_column, excluded_count,
    BY_ROW: tl.constexpr, NOTHING: tl.constexpr,
):  # fmt: skip
    """`_drop` for any number of exclusions per lister."""
    for place in range(excluded_count):
        excluded = _excluded(exclude, start, step, listers, count, place, excluded_count)
        tile = _drop(tile, excluded, first_row, first_column, BY_ROW, NOTHING)
    return tile


@triton.jit
def _load_lse(lse, indices, n):
    """Load lse, as +inf where nothing was left to sum: every weight e^(S - lse) is zero there."""
    loaded = tl.load(lse + indices, mask=indices < n, other=-INF)
    return tl.where(loaded == -INF, INF, loaded)


@triton.jit
def merged(peaks, totals, indices, n, stride, parts):
    """Join ``parts`` running sums per index, ``stride`` numbers apart, in order, to lse; it is given without totals."""
    if totals is None:
        return tl.load(peaks + indices, mask=indices < n, other=-INF)
    else:
        peak = tl.full(indices.shape, -INF, tl.float32)
        total = tl.zeros(indices.shape, tl.float32)
        for part in range(parts):
            offsets = tl.cast(part, tl.int64) * stride + indices
            next_peak = tl.load(peaks + offsets, mask=indices < n, other=-INF)
            next_total = tl.load(totals + offsets, mask=indices < n, other=0.0)
            new = tl.maximum(peak, next_peak)
            point = _reference_point(new)
            total = total * tl.exp(peak - point) + next_total * tl.exp(next_peak - point)
            peak = new
        return _reference_point(peak) + tl.log(total)


@triton.jit
def sum_of_parts(
    moved, rows, features, n, d, part_rows, parts, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """A tile of the sum over parts that are ``part_rows`` rows apart, zero beyond N and D."""
    inside = (rows[:, None] < n) & (features[None, :] < d)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for part in range(parts):
        total += tl.load(pairs(moved, tl.cast(part, tl.int64) * part_rows + rows, features, d), mask=inside, other=0.0)
    return total


@triton.jit
def unit_of(largest, count):
    """The number by which float16 weights are divided, so that the largest becomes HEADROOM; 1 for other dtypes."""
    if largest is None:
        return 1.0
    else:
        peak = tl.zeros((128,), tl.float32)
        for first in range(0, count, 128):
            places = first + tl.arange(0, 128)
            peak = tl.maximum(peak, tl.load(largest + places, mask=places < count, other=0.0))
        return tl.maximum(tl.max(peak, 0), 2.0**-100) / HEADROOM


# --- fused: the logits live in registers ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "m", "start", "step", "row_programs", "column_programs"])
def forward_kernel(
    x, y, scale, exclude, row_peaks, row_totals, column_peaks, column_totals, attended,
    n, m, d, x_stride, y_stride, start, step, row_programs, column_programs,
    EXCLUDED: tl.constexpr, COLUMNS: tl.constexpr, ATTEND: tl.constexpr, ROOM: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Running (peak, total) of rows (column_programs, N) and of columns (row_programs, M), and sums of e^S*y
    (column_programs, N, D).

    ROOM, a power of two, multiplies the weights of y, which are at most 1: small ones survive rounding to float16.
    """
    row_program = tl.program_id(0) // column_programs
    column_program = tl.program_id(0) % column_programs
    factor = tl.load(scale)
    features = tl.arange(0, BLOCK_D)
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    begin = column_program * span
    end = tl.minimum(begin + span, m)
    row_state = column_program.to(tl.int64) * n
    column_state = row_program.to(tl.int64) * m
    for block in range(row_program, tl.cdiv(n, BLOCK_N), row_programs):
        rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
        queries = load_rows(x, rows, features, n, d, x_stride)
        peak = tl.full((BLOCK_N,), -INF, tl.float32)
        total = tl.zeros((BLOCK_N,), tl.float32)
        if ATTEND:
            moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for first in range(begin, end, BLOCK_M):
            columns = first + tl.arange(0, BLOCK_M)
            keys = load_rows(y, columns, features, m, d, y_stride)
            logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * factor
            logits = tl.where((columns < m)[None, :], logits, -INF)  # absent columns of infinite rows are NaN
            logits = _drop_each(
                logits, exclude, start, step, rows, n, block * BLOCK_N, first, EXCLUDED, True, -INF
            )  # fmt: skip
            if COLUMNS:
                kept = tl.where(rows[:, None] < n, logits, -INF)
                known = tl.where(block == row_program, 0, m)
                _join_columns(column_peaks, column_totals, column_state, columns, m, known, kept)
            peak, total, weights, fade = _join_rows(peak, total, logits)
            if ATTEND:
                moved = moved * fade[:, None]
                moved = tl.dot((weights * ROOM).to(keys.dtype), keys, moved, input_precision=PRECISION)
        tl.store(row_peaks + row_state + rows, peak, mask=rows < n)
        tl.store(row_totals + row_state + rows, total, mask=rows < n)
        if ATTEND:
            inside = (rows[:, None] < n) & (features[None, :] < d)
            tl.store(pairs(attended, row_state + rows, features, d), moved / ROOM, mask=inside)
        if COLUMNS:
            tl.debug_barrier()  # the next block of rows reads the column state that other threads wrote


@triton.jit(do_not_specialize=["n", "m", "start", "step", "column_programs", "largest_count"])
def backward_kernel(
    x, y, scale, exclude, lse, grad, other_lse, other_grad, largest, moved_out,
    n, m, d, x_stride, y_stride, start, step, column_programs, largest_count,
    EXCLUDED: tl.constexpr, LISTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """O = G*Y of a block of rows, (column_programs, N, D), over `unit_of` ``largest``.

    ``lse`` and ``grad`` give the own term of G, from the sums of x's rows; ``other_lse`` and ``other_grad`` give the
    other term, from the sums of y's rows. Either pair may be None.
    LISTS: "rows" where the rows of x say which pairs are left out, "columns" where those of y do. With "each" the own
    term leaves out those of x's rows and the other term those of y's: x with itself, with any table.
    """
    block = tl.program_id(0) // column_programs
    column_program = tl.program_id(0) % column_programs
    factor = tl.load(scale)
    features = tl.arange(0, BLOCK_D)
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    begin = column_program * span
    end = tl.minimum(begin + span, m)
    first_row = block * BLOCK_N
    rows = first_row + tl.arange(0, BLOCK_N)
    queries = load_rows(x, rows, features, n, d, x_stride)
    room = 1.0 / unit_of(largest, largest_count)
    if lse is not None:
        row_lse = _load_lse(lse, rows, n)
        row_grad = tl.load(grad + rows, mask=rows < n, other=0.0) * room
    moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(begin, end, BLOCK_M):
        columns = first + tl.arange(0, BLOCK_M)
        keys = load_rows(y, columns, features, m, d, y_stride)
        logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * factor
        logits = tl.where((columns < m)[None, :], logits, -INF)  # absent columns of infinite rows are NaN
        weights = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        if lse is not None:
            weights += row_grad[:, None] * tl.exp(logits - row_lse[:, None])
            if LISTS == "each":
                weights = _drop_each(weights, exclude, start, step, rows, n, first_row, first, EXCLUDED, True, 0.0)
        if other_lse is not None:
            column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0) * room
            other = column_grad[None, :] * tl.exp(logits - _load_lse(other_lse, columns, m)[None, :])
            if LISTS == "each":
                other = _drop_each(other, exclude, start, step, columns, m, first_row, first, EXCLUDED, False, 0.0)
            weights += other
        if LISTS == "rows":
            weights = _drop_each(weights, exclude, start, step, rows, n, first_row, first, EXCLUDED, True, 0.0)
        if LISTS == "columns":
            weights = _drop_each(weights, exclude, start, step, columns, m, first_row, first, EXCLUDED, False, 0.0)
        moved = tl.dot(weights.to(keys.dtype), keys, moved, input_precision=PRECISION)
    inside = (rows[:, None] < n) & (features[None, :] < d)
    tl.store(pairs(moved_out, column_program.to(tl.int64) * n + rows, features, d), moved, mask=inside)


# --- chunked: the logits of a chunk (N, M) live in memory -----------------------------------------------------------
# M is the distance between rows of the chunk. Launches specialise on it: a multiple of 16 loads in wide words.


@triton.jit(
    do_not_specialize=[
        "n", "total_n", "total_m", "count", "first_row", "first_column", "start", "step", "row_programs",
        "column_programs", "more_rows", "more_columns",
    ]
)  # fmt: skip
def chunk_forward_kernel(
    products, scale, exclude, row_peaks, row_totals, column_peaks, column_totals,
    n, m, total_n, total_m, count, first_row, first_column, start, step, excluded_count, row_programs,
    column_programs, more_rows, more_columns,
    COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The (peak, total) of forward_kernel, from a chunk of x_i*y_j. Pointers to rows and columns stand at the chunk's
    first ones, but ``exclude`` at the first of all ``count`` rows.

    more_rows, more_columns: 1 where an earlier chunk had these rows, or columns, and this one continues their state.
    """
    row_program = tl.program_id(0) // column_programs
    column_program = tl.program_id(0) % column_programs
    factor = tl.load(scale)
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    begin = column_program * span
    end = tl.minimum(begin + span, m)
    row_state = column_program.to(tl.int64) * total_n
    column_state = row_program.to(tl.int64) * total_m
    for block in range(row_program, tl.cdiv(n, BLOCK_N), row_programs):
        rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
        peak = tl.load(row_peaks + row_state + rows, mask=rows < n * more_rows, other=-INF)
        total = tl.load(row_totals + row_state + rows, mask=rows < n * more_rows, other=0.0)
        for first in range(begin, end, BLOCK_M):
            columns = first + tl.arange(0, BLOCK_M)
            inside = (rows[:, None] < n) & (columns[None, :] < m)
            logits = tl.load(pairs(products, rows, columns, m), mask=inside, other=0.0)
            logits = tl.where(inside, logits * factor, -INF)
            listers = tl.where(rows < n, first_row + rows, count)
            logits = _drop_all(
                logits, exclude, start, step, listers, count, first_row + block * BLOCK_N, first_column + first,
                excluded_count, True, -INF,
            )  # fmt: skip
            if COLUMNS:
                known = tl.where(block == row_program, m * more_columns, m)
                _join_columns(column_peaks, column_totals, column_state, columns, m, known, logits)
            peak, total, weights, fade = _join_rows(peak, total, logits)
        tl.store(row_peaks + row_state + rows, peak, mask=rows < n)
        tl.store(row_totals + row_state + rows, total, mask=rows < n)
        if COLUMNS:
            tl.debug_barrier()  # the next block of rows reads the column state that other threads wrote


@triton.jit(do_not_specialize=["n", "count", "first_row", "first_column", "start", "step", "largest_count"])
def chunk_backward_kernel(
    products, weights_out, scale, exclude, lse, grad, other_lse, other_grad, largest,
    n, m, count, first_row, first_column, start, step, excluded_count, largest_count,
    EACH: tl.constexpr, ROOM: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """G of a chunk, over `unit_of` ``largest``, in the dtype of ``weights_out``, which may be ``products`` itself.

    Pointers to rows and columns stand at the chunk's first ones, but ``exclude`` at the first of all ``count`` rows.
    Without ``grad`` the own term has the weight ROOM. EACH: the other term leaves out pairs that the columns exclude,
    which are x's rows too; otherwise both leave out those of the rows.
    """
    column_blocks = tl.cdiv(m, BLOCK_M)
    row_block = (tl.program_id(0) // column_blocks) * BLOCK_N
    column_block = (tl.program_id(0) % column_blocks) * BLOCK_M
    rows = row_block + tl.arange(0, BLOCK_N)
    columns = column_block + tl.arange(0, BLOCK_M)
    inside = (rows[:, None] < n) & (columns[None, :] < m)
    logits = tl.load(pairs(products, rows, columns, m), mask=inside, other=0.0) * tl.load(scale)
    logits = tl.where(inside, logits, -INF)
    weights = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    room = 1.0 / unit_of(largest, largest_count)
    row = first_row + row_block
    column = first_column + column_block
    by_row = tl.where(rows < n, first_row + rows, count)
    by_column = tl.where(columns < m, first_column + columns, count)
    if lse is not None:
        row_grad = tl.full((BLOCK_N,), ROOM, tl.float32)
        if grad is not None:
            row_grad = tl.load(grad + rows, mask=rows < n, other=0.0) * room
        weights += row_grad[:, None] * tl.exp(logits - _load_lse(lse, rows, n)[:, None])
        if EACH:
            weights = _drop_all(
                weights, exclude, start, step, by_row, count, row, column, excluded_count, True, 0.0
            )  # fmt: skip
    if other_lse is not None:
        column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0) * room
        other = column_grad[None, :] * tl.exp(logits - _load_lse(other_lse, columns, m)[None, :])
        if EACH:
            other = _drop_all(
                other, exclude, start, step, by_column, count, row, column, excluded_count, False, 0.0
            )  # fmt: skip
        weights += other
    if not EACH:
        weights = _drop_all(weights, exclude, start, step, by_row, count, row, column, excluded_count, True, 0.0)
    tl.store(pairs(weights_out, rows, columns, m), weights.to(weights_out.dtype.element_ty), mask=inside)


# --- the end of both ways -------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "parts"])
def merge_kernel(peaks, totals, lse, n, parts, BLOCK: tl.constexpr):
    """`merged` running sums: (parts, N) -> (N,)."""
    indices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(lse + indices, merged(peaks, totals, indices, n, n, parts), mask=indices < n)


@triton.jit(do_not_specialize=["n", "m"])
def largest_kernel(rows, columns, largest, n, m, BLOCK: tl.constexpr):
    """The largest finite magnitude of both sides' gradients, one for each program. Either side may be None."""
    peak = tl.zeros((BLOCK,), tl.float32)
    if rows is not None:
        for first in range(tl.program_id(0) * BLOCK, n, tl.num_programs(0) * BLOCK):
            places = first + tl.arange(0, BLOCK)
            size = tl.abs(tl.load(rows + places, mask=places < n, other=0.0))
            peak = tl.maximum(peak, tl.where(size < INF, size, 0.0))
    if columns is not None:
        for first in range(tl.program_id(0) * BLOCK, m, tl.num_programs(0) * BLOCK):
            places = first + tl.arange(0, BLOCK)
            size = tl.abs(tl.load(columns + places, mask=places < m, other=0.0))
            peak = tl.maximum(peak, tl.where(size < INF, size, 0.0))
    tl.store(largest + tl.program_id(0), tl.max(peak, 0))


@triton.jit(do_not_specialize=["n", "parts"])
def attended_kernel(
    moved, row_peaks, lse, attended, n, d, parts, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """softmax(S)*Y from each part's sum of e^S*y, (parts, N, D) -> (N, D); zero where nothing was left to sum."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_lse = _load_lse(lse, rows, n)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for part in range(parts):
            state = tl.cast(part, tl.int64) * n + rows
            peak = tl.load(row_peaks + state, mask=rows < n, other=-INF)
            some = tl.load(pairs(moved, state, features, d), mask=inside, other=0.0)
            total += some * tl.exp(peak - row_lse)[:, None]
        tl.store(pairs(attended, rows, features, d), total, mask=inside)


@triton.jit(do_not_specialize=["n", "parts", "largest_count"])
def total_kernel(
    moved, largest, out, n, d, parts, largest_count, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """`unit_of` ``largest`` times the sum over parts: (parts, N, D) -> (N, D), which may be the only part."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    unit = unit_of(largest, largest_count)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        total = sum_of_parts(moved, rows, features, n, d, n, parts, BLOCK_N, BLOCK_D)
        tl.store(pairs(out, rows, features, d), total * unit, mask=inside)
