# SPDX-License-Identifier: Apache-2.0
"""The similarity family in Triton: log-sum-exp of s*X*Y^T over rows and columns, and its gradients, without the matrix.

    S_ij  = s*<x_i, y_j>, -inf where row i excludes column j
    lse_i = log sum_j e^S_ij             a running (peak, total) per row, and per column where asked
    G_ij  = g_i*e^(S_ij - lse_i) + h_j*e^(S_ij - lse_j)      never a product of exponentials: each is at most 1
    O = G*Y,  dX = s*O,  ds = sum_i <x_i, O_i>  (half of it for x with itself, where G holds both terms)
    dY = s*G^T*X is the same sweep with the two sides exchanged

Two ways through the pairs, chosen in triton.py:
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

INF = tl.constexpr(float("inf"))


# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def _pairs(x, rows, columns, stride):
    """Pointers to (row, column): int64 per row, so that only the offset within a row is 32 bits wide."""
    return (x + rows.to(tl.int64) * stride)[:, None] + columns[None, :]


@triton.jit
def _load_rows(x, rows, features, n, d, stride):
    return tl.load(
        _pairs(x, rows, features, stride), mask=(rows[:, None] < n) & (features[None, :] < d), other=0.0
    )  # fmt: skip


@triton.jit
def _reference_point(peak):
    """What to subtract before exponentiating: the peak, or 0 where it is infinite (inf - inf is NaN)."""
    return tl.where(tl.abs(peak) == INF, 0.0, peak)


@triton.jit
def _join_rows(peak, total, logits):
    """A tile joins the running (peak, total) of its rows; also its exponentials and the factor for older ones."""
    new = tl.maximum(peak, tl.max(logits, 1))
    point = _reference_point(new)
    weights = tl.exp(logits - point[:, None])
    fade = tl.exp(peak - point)
    return new, total * fade + tl.sum(weights, 1), weights, fade


@triton.jit
def _join_columns(peaks, totals, state, columns, m, known, logits):
    """A tile joins the (peak, total) this program keeps in memory for M columns; the first ``known`` hold something."""
    peak = tl.load(peaks + state + columns, mask=columns < known, other=-INF)
    total = tl.load(totals + state + columns, mask=columns < known, other=0.0)
    new = tl.maximum(peak, tl.max(logits, 0))
    point = _reference_point(new)
    total = total * tl.exp(peak - point) + tl.sum(tl.exp(logits - point[None, :]), 0)
    tl.store(peaks + state + columns, new, mask=columns < m)
    tl.store(totals + state + columns, total, mask=columns < m)


@triton.jit
def _drop(tile, excluded, first_row, first_column, BY_ROW: tl.constexpr, NOTHING: tl.constexpr):
    """NOTHING at one excluded index per row, or per column; most tiles hold none and skip the comparison."""
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
def _drop_each(
    tile, exclude, listers, n, first_row, first_column,
    EXCLUDED: tl.constexpr, BY_ROW: tl.constexpr, NOTHING: tl.constexpr,
):  # fmt: skip
    """`_drop` for a few exclusions per lister, unrolled: a loop inside would keep the tile loop from pipelining.

    Logits become -inf; weights become 0 once they are made, since e^(-inf - lse) is NaN where the sum is.
    """
    for e in tl.static_range(EXCLUDED):
        excluded = tl.load(exclude + listers.to(tl.int64) * EXCLUDED + e, mask=listers < n, other=-1)
        tile = _drop(tile, excluded, first_row, first_column, BY_ROW, NOTHING)
    return tile


@triton.jit
def _drop_all(
    tile, exclude, listers, n, first_row, first_column, excluded_count,
    BY_ROW: tl.constexpr, NOTHING: tl.constexpr,
):  # fmt: skip
    """`_drop` for any number of exclusions per lister."""
    if exclude is not None:
        for e in range(excluded_count):
            excluded = tl.load(exclude + listers.to(tl.int64) * excluded_count + e, mask=listers < n, other=-1)
            tile = _drop(tile, excluded, first_row, first_column, BY_ROW, NOTHING)
    return tile


@triton.jit
def _load_lse(lse, indices, n):
    """+inf where nothing was left to sum, so that every weight e^(S - lse) is zero there."""
    loaded = tl.load(lse + indices, mask=indices < n, other=-INF)
    return tl.where(loaded == -INF, INF, loaded)


# --- fused: the logits live in registers ----------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "m", "row_programs", "column_programs"])
def forward_kernel(
    x, y, scale, exclude, row_peaks, row_totals, column_peaks, column_totals, attended,
    n, m, d, x_stride, y_stride, row_programs, column_programs,
    EXCLUDED: tl.constexpr, COLUMNS: tl.constexpr, ATTEND: tl.constexpr, HEADROOM: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Running (peak, total) of rows (column_programs, N) and columns (row_programs, M), and sum of e^S*y (.., N, D).

    HEADROOM, a power of two: weights are at most this instead of 1, so that small ones survive rounding to float16.
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
        queries = _load_rows(x, rows, features, n, d, x_stride)
        peak = tl.full((BLOCK_N,), -INF, tl.float32)
        total = tl.zeros((BLOCK_N,), tl.float32)
        if ATTEND:
            moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for start in range(begin, end, BLOCK_M):
            columns = start + tl.arange(0, BLOCK_M)
            keys = _load_rows(y, columns, features, m, d, y_stride)
            logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * factor
            logits = tl.where((columns < m)[None, :], logits, -INF)  # of an infinite row they would be NaN
            logits = _drop_each(logits, exclude, rows, n, block * BLOCK_N, start, EXCLUDED, True, -INF)
            if COLUMNS:
                kept = tl.where(rows[:, None] < n, logits, -INF)
                known = tl.where(block == row_program, 0, m)
                _join_columns(column_peaks, column_totals, column_state, columns, m, known, kept)
            peak, total, weights, fade = _join_rows(peak, total, logits)
            if ATTEND:
                moved = moved * fade[:, None]
                moved = tl.dot((weights * HEADROOM).to(keys.dtype), keys, moved, input_precision=PRECISION)
        tl.store(row_peaks + row_state + rows, peak, mask=rows < n)
        tl.store(row_totals + row_state + rows, total, mask=rows < n)
        if ATTEND:
            inside = (rows[:, None] < n) & (features[None, :] < d)
            tl.store(_pairs(attended, row_state + rows, features, d), moved / HEADROOM, mask=inside)
        if COLUMNS:
            tl.debug_barrier()  # the next block of rows reads the column state that other threads wrote


@triton.jit(do_not_specialize=["n", "m", "column_programs"])
def backward_kernel(
    x, y, scale, exclude, lse, grad, other_lse, other_grad, moved_out,
    n, m, d, x_stride, y_stride, column_programs,
    EXCLUDED: tl.constexpr, OWN_LISTS: tl.constexpr, OTHER_LISTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """O = G*Y of a block of rows, (column_programs, N, D).

    ``lse`` and ``grad`` weigh the rows' own sums, ``other_lse`` and ``other_grad`` those of y; either pair may be None.
    OWN_LISTS: the own term leaves out what the rows of x list, else what those of y list. OTHER_LISTS: likewise, the
    other term leaves out what the rows of y list. A side of the rectangle has one list, x with itself has both.
    """
    block = tl.program_id(0) // column_programs
    column_program = tl.program_id(0) % column_programs
    factor = tl.load(scale)
    features = tl.arange(0, BLOCK_D)
    span = tl.cdiv(tl.cdiv(m, BLOCK_M), column_programs) * BLOCK_M
    begin = column_program * span
    end = tl.minimum(begin + span, m)
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    queries = _load_rows(x, rows, features, n, d, x_stride)
    if lse is not None:
        row_lse = _load_lse(lse, rows, n)
        row_grad = tl.load(grad + rows, mask=rows < n, other=0.0)
    moved = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(begin, end, BLOCK_M):
        columns = start + tl.arange(0, BLOCK_M)
        keys = _load_rows(y, columns, features, m, d, y_stride)
        logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * factor
        logits = tl.where((columns < m)[None, :], logits, -INF)  # of an infinite row they would be NaN
        weights = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
        if lse is not None:
            own = row_grad[:, None] * tl.exp(logits - row_lse[:, None])
            if OWN_LISTS:
                weights = _drop_each(own, exclude, rows, n, block * BLOCK_N, start, EXCLUDED, True, 0.0)
            else:
                weights = _drop_each(own, exclude, columns, m, block * BLOCK_N, start, EXCLUDED, False, 0.0)
        if other_lse is not None:
            column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0)
            other = column_grad[None, :] * tl.exp(logits - _load_lse(other_lse, columns, m)[None, :])
            if OTHER_LISTS:
                weights += _drop_each(other, exclude, columns, m, block * BLOCK_N, start, EXCLUDED, False, 0.0)
            else:
                weights += _drop_each(other, exclude, rows, n, block * BLOCK_N, start, EXCLUDED, True, 0.0)
        moved = tl.dot(weights.to(keys.dtype), keys, moved, input_precision=PRECISION)
    inside = (rows[:, None] < n) & (features[None, :] < d)
    tl.store(_pairs(moved_out, column_program.to(tl.int64) * n + rows, features, d), moved, mask=inside)


# --- chunked: the logits of a chunk (N, M) live in memory -----------------------------------------------------------
# M is the distance between rows of the chunk: launches specialise on it, so that a multiple of 16 loads in wide words.


@triton.jit(
    do_not_specialize=[
        "n", "total_n", "total_m", "first_column", "row_programs", "column_programs", "more_rows", "more_columns"
    ]
)  # fmt: skip
def chunk_forward_kernel(
    products, scale, exclude, row_peaks, row_totals, column_peaks, column_totals,
    n, m, total_n, total_m, first_column, excluded_count, row_programs, column_programs, more_rows, more_columns,
    COLUMNS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """What forward_kernel keeps, for a chunk of x_i*y_j. Pointers of rows and columns stand at the chunk's first.

    more_rows, more_columns: 1 where an earlier chunk had these rows, these columns, and this one continues their state.
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
        for start in range(begin, end, BLOCK_M):
            columns = start + tl.arange(0, BLOCK_M)
            inside = (rows[:, None] < n) & (columns[None, :] < m)
            logits = tl.load(_pairs(products, rows, columns, m), mask=inside, other=0.0)
            logits = tl.where(inside, logits * factor, -INF)
            first = first_column + start
            logits = _drop_all(logits, exclude, rows, n, block * BLOCK_N, first, excluded_count, True, -INF)
            if COLUMNS:
                known = tl.where(block == row_program, m * more_columns, m)
                _join_columns(column_peaks, column_totals, column_state, columns, m, known, logits)
            peak, total, weights, fade = _join_rows(peak, total, logits)
        tl.store(row_peaks + row_state + rows, peak, mask=rows < n)
        tl.store(row_totals + row_state + rows, total, mask=rows < n)
        if COLUMNS:
            tl.debug_barrier()  # the next block of rows reads the column state that other threads wrote


@triton.jit(do_not_specialize=["n", "first_row", "first_column"])
def chunk_backward_kernel(
    products, weights_out, scale, exclude, lse, grad, other_lse, other_grad,
    n, m, first_row, first_column, excluded_count,
    SELF: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """G of a chunk, in the dtype of ``weights_out``, which may be ``products`` itself.

    Vectors of rows and columns stand at the chunk's first, ``exclude`` at the first of all. SELF: x with itself, where
    the other term leaves out what the columns list.
    """
    column_blocks = tl.cdiv(m, BLOCK_M)
    row_block = (tl.program_id(0) // column_blocks) * BLOCK_N
    column_block = (tl.program_id(0) % column_blocks) * BLOCK_M
    rows = row_block + tl.arange(0, BLOCK_N)
    columns = column_block + tl.arange(0, BLOCK_M)
    inside = (rows[:, None] < n) & (columns[None, :] < m)
    logits = tl.load(_pairs(products, rows, columns, m), mask=inside, other=0.0) * tl.load(scale)
    logits = tl.where(inside, logits, -INF)
    weights = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    first = first_row + row_block
    start = first_column + column_block
    if lse is not None:
        row_grad = tl.load(grad + rows, mask=rows < n, other=0.0)
        own = row_grad[:, None] * tl.exp(logits - _load_lse(lse, rows, n)[:, None])
        weights += _drop_all(
            own, exclude, first_row + rows, first_row + n, first, start, excluded_count, True, 0.0
        )  # fmt: skip
    if other_lse is not None:
        column_grad = tl.load(other_grad + columns, mask=columns < m, other=0.0)
        other = column_grad[None, :] * tl.exp(logits - _load_lse(other_lse, columns, m)[None, :])
        if SELF:
            weights += _drop_all(
                other, exclude, first_column + columns, first_column + m, first, start, excluded_count, False, 0.0
            )
        else:
            weights += _drop_all(
                other, exclude, first_row + rows, first_row + n, first, start, excluded_count, True, 0.0
            )  # fmt: skip
    tl.store(_pairs(weights_out, rows, columns, m), weights.to(weights_out.dtype.element_ty), mask=inside)


# --- what both ways end with ----------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "parts"])
def merge_kernel(peaks, totals, lse, n, parts, BLOCK: tl.constexpr):
    """lse of ``parts`` running sums per index, joined in order: (parts, N) -> (N,)."""
    indices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    peak = tl.full((BLOCK,), -INF, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(parts):
        offsets = tl.cast(part, tl.int64) * n + indices
        next_peak = tl.load(peaks + offsets, mask=indices < n, other=-INF)
        next_total = tl.load(totals + offsets, mask=indices < n, other=0.0)
        new = tl.maximum(peak, next_peak)
        point = _reference_point(new)
        total = total * tl.exp(peak - point) + next_total * tl.exp(next_peak - point)
        peak = new
    tl.store(lse + indices, _reference_point(peak) + tl.log(total), mask=indices < n)


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
            some = tl.load(_pairs(moved, state, features, d), mask=inside, other=0.0)
            total += some * tl.exp(peak - row_lse)[:, None]
        tl.store(_pairs(attended, rows, features, d), total, mask=inside)


@triton.jit(do_not_specialize=["n", "parts"])
def gradient_kernel(
    moved, x, scale, unit, dx, row_dscale, n, d, x_stride, parts, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """dx = s*O and <x_i, O_i>, O the sum over parts (parts, N, D) times ``unit``. ``dx`` may be None."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    factor = 1.0
    if unit is not None:
        factor = tl.load(unit)
    along = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        for part in range(parts):
            total += tl.load(_pairs(moved, tl.cast(part, tl.int64) * n + rows, features, d), mask=inside, other=0.0)
        total *= factor
        along += tl.sum(_load_rows(x, rows, features, n, d, x_stride).to(tl.float32) * total, 1)
        if dx is not None:
            tl.store(_pairs(dx, rows, features, d), (total * tl.load(scale)).to(dx.dtype.element_ty), mask=inside)
    tl.store(row_dscale + rows, along, mask=rows < n)


# --- rows: bound by memory, everything in float32 -------------------------------------------------------------------


@triton.jit
def _over_peak(part, peak):
    """Rows over their largest magnitude; 1 or -1 where both are infinite, so that the norm is infinite and not NaN."""
    return tl.where(tl.abs(part) == peak[:, None], tl.where(part < 0, -1.0, 1.0), part / peak[:, None])


@triton.jit(do_not_specialize=["n"])
def unit_rows_kernel(z, unit, norms, n, d, z_stride, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """z_i / max(|z_i|, 1e-12) and |z_i|. 3 reads (all but the first from cache) and a write of N*D.

    Squares are of z_i / max|z_ik|, so that they neither overflow nor vanish.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    peak = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        part = _load_rows(z, rows, first + tl.arange(0, BLOCK_D), n, d, z_stride).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.abs(part), 1))
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        part = _load_rows(z, rows, first + tl.arange(0, BLOCK_D), n, d, z_stride).to(tl.float32)
        part = _over_peak(part, peak)
        squares += tl.sum(part * part, 1)
    norm = peak * tl.sqrt_rn(squares)
    tl.store(norms + rows, norm, mask=rows < n)
    divisor = tl.where(norm < 1e-12, 1e-12, norm)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        part = _load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        tl.store(_pairs(unit, rows, features, d), (part / divisor[:, None]).to(unit.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def unit_rows_backward_kernel(
    unit, norms, grad, dz, n, d, grad_stride, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """dz_i = (g_i - u_i*<u_i, g_i>) / max(|z_i|, 1e-12), without the projection where the norm was clamped."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    norm = tl.load(norms + rows, mask=rows < n, other=1.0)
    along = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        u = _load_rows(unit, rows, features, n, d, d).to(tl.float32)
        g = _load_rows(grad, rows, features, n, d, grad_stride).to(tl.float32)
        along += tl.sum(u * g, 1)
    along = tl.where(norm > 1e-12, along, 0.0)
    divisor = tl.where(norm < 1e-12, 1e-12, norm)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        u = _load_rows(unit, rows, features, n, d, d).to(tl.float32)
        g = _load_rows(grad, rows, features, n, d, grad_stride).to(tl.float32)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        part = (g - u * along[:, None]) / divisor[:, None]
        tl.store(_pairs(dz, rows, features, d), part.to(dz.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "m", "shift"])
def row_dot_kernel(x, y, out, n, m, d, x_stride, y_stride, shift, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """<x_i, y_((i + shift) mod M)>, 0 <= shift < M."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    partners = (rows.to(tl.int64) + shift) % m
    total = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        left = _load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
        right = _load_rows(y, partners, features, m, d, y_stride).to(tl.float32)
        total += tl.sum(left * right, 1)
    tl.store(out + rows, total, mask=rows < n)


@triton.jit(do_not_specialize=["n", "m", "shift", "out_rows"])
def row_dot_backward_kernel(
    x, y, grad, out, n, m, d, x_stride, y_stride, shift, out_rows,
    GIVEN: tl.constexpr, RECEIVED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """GIVEN: grad_i*y_((i + shift) mod M), what x_i is owed. RECEIVED: grad_k*x_k of the k < N whose partner is i."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    partners = (rows.to(tl.int64) + shift) % m
    givers = rows.to(tl.int64) - shift
    givers = tl.where(givers < 0, givers + m, givers)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        if GIVEN:
            weight = tl.load(grad + rows, mask=rows < n, other=0.0)
            total += weight[:, None] * _load_rows(y, partners, features, m, d, y_stride).to(tl.float32)
        if RECEIVED:
            weight = tl.load(grad + givers, mask=givers < n, other=0.0)
            total += weight[:, None] * _load_rows(x, givers, features, n, d, x_stride).to(tl.float32)
        inside = (rows[:, None] < out_rows) & (features[None, :] < d)
        tl.store(_pairs(out, rows, features, d), total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "eps"])
def row_cosine_kernel(
    x, y, cosines, norms, n, d, x_stride, y_stride, eps, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """<x_i, y_i> / (max(|x_i|, eps)*max(|y_i|, eps)), and |x_i|, |y_i|. One read of both sides.

    Only a block with a row whose squares may have left the range reads again, as x_i / max|x_ik|.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = rows < n
    xx = tl.zeros((BLOCK_N,), tl.float32)
    yy, xy = tl.zeros_like(xx), tl.zeros_like(xx)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        a = _load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
        b = _load_rows(y, rows, features, n, d, y_stride).to(tl.float32)
        xx += tl.sum(a * a, 1)
        yy += tl.sum(b * b, 1)
        xy += tl.sum(a * b, 1)
    unit_x, unit_y = tl.zeros_like(xx) + 1.0, tl.zeros_like(xx) + 1.0
    usual = (xx > 1e-30) & (xx < 1e30) & (yy > 1e-30) & (yy < 1e30)  # NaN is not
    if tl.sum((known & ~usual).to(tl.int32), 0) > 0:
        peak_x, peak_y = tl.zeros_like(xx), tl.zeros_like(xx)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            a = _load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
            b = _load_rows(y, rows, features, n, d, y_stride).to(tl.float32)
            peak_x = tl.maximum(peak_x, tl.max(tl.abs(a), 1))
            peak_y = tl.maximum(peak_y, tl.max(tl.abs(b), 1))
        unit_x = tl.where(peak_x == 0, 1.0, peak_x)
        unit_y = tl.where(peak_y == 0, 1.0, peak_y)
        xx, yy, xy = tl.zeros_like(xx), tl.zeros_like(yy), tl.zeros_like(xy)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            a = _over_peak(_load_rows(x, rows, features, n, d, x_stride).to(tl.float32), unit_x)
            b = _over_peak(_load_rows(y, rows, features, n, d, y_stride).to(tl.float32), unit_y)
            xx += tl.sum(a * a, 1)
            yy += tl.sum(b * b, 1)
            xy += tl.sum(a * b, 1)
    of_x, of_y = unit_x * tl.sqrt_rn(xx), unit_y * tl.sqrt_rn(yy)
    tl.store(norms + rows, of_x, mask=known)
    tl.store(norms + n + rows, of_y, mask=known)
    cosine = xy * (unit_x / tl.where(of_x < eps, eps, of_x)) * (unit_y / tl.where(of_y < eps, eps, of_y))
    tl.store(cosines + rows, cosine, mask=known)


@triton.jit(do_not_specialize=["n", "grad_stride", "eps"])
def row_cosine_backward_kernel(
    x, y, cosines, norms, grad, dx, dy, n, d, x_stride, y_stride, grad_stride, eps,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dx_i = g_i/|x_i|*(v_i - c_i*u_i), dy_i = g_i/|y_i|*(u_i - c_i*v_i), u = x/|x|, v = y/|y|; |.| counts as eps where
    it is less, and there the second term is absent. What is None is not wanted.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = rows < n
    cosine = tl.load(cosines + rows, mask=known, other=0.0)
    norm_x, norm_y = tl.load(norms + rows, mask=known, other=1.0), tl.load(norms + n + rows, mask=known, other=1.0)
    g = tl.load(grad + rows.to(tl.int64) * grad_stride, mask=known, other=0.0)
    along_x, along_y = tl.where(norm_x > eps, cosine, 0.0), tl.where(norm_y > eps, cosine, 0.0)
    # Numbers of unit size times one factor: products of two inverse norms would leave the range.
    a, b = 1.0 / tl.where(norm_x < eps, eps, norm_x), 1.0 / tl.where(norm_y < eps, eps, norm_y)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        inside = known[:, None] & (features[None, :] < d)
        u = _load_rows(x, rows, features, n, d, x_stride).to(tl.float32) * a[:, None]
        v = _load_rows(y, rows, features, n, d, y_stride).to(tl.float32) * b[:, None]
        if dx is not None:
            part = (g * a)[:, None] * (v - along_x[:, None] * u)
            tl.store(_pairs(dx, rows, features, d), part.to(dx.dtype.element_ty), mask=inside)
        if dy is not None:
            part = (g * b)[:, None] * (u - along_y[:, None] * v)
            tl.store(_pairs(dy, rows, features, d), part.to(dy.dtype.element_ty), mask=inside)
