# SPDX-License-Identifier: Apache-2.0
"""The similarity family in Triton: log-sum-exp of s*X*Y^T over rows and columns, and its gradients, without the matrix.

    S_ij  = s*<x_i, y_j> + b_j, -inf where row i excludes column j
    lse_i = log sum_j e^S_ij             a running (peak, total) per row, and per column where asked
    G_ij  = g_i*e^(S_ij - lse_i) + h_j*e^(S_ij - lse_j)      never a product of exponentials: each is at most 1
    O = G*Y moves x, and G^T*X moves y: the same sweep with the two sides exchanged

triton_plan.py chooses among the ways through the pairs:
    tiles    matrix products whose epilogue keeps sums of a tile, or its weights for two more products
             2*N*M*D operations forward, half of that with itself, and 6*N*M*D backward for both sides
             (triton_tile_kernels.py)
    fused    programs keep rows and logits in registers; 16-bit rows of D <= 128, where the keys are frozen or one side
             asks for its gradient; 4*N*M*D operations each, O((N + M)*D) bytes (triton_fused_kernels.py)

Here is what both share: exclusions, and the kernels that join what programs left of a sum, in a fixed order. There are
no atomics, so the same inputs give the same bits.
Logits and lse stay in the natural base although the hardware's is 2: converted and converted back, an lse of 1e8 moves
by several ulp, each a factor of e^8. Offsets of rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF, exp, pairs

# Float16 weights, at most 1, are multiplied by this: those of 65536 equal pairs, 2^-16, would be subnormal otherwise.
HEADROOM = tl.constexpr(2.0**14)

# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def reference_point(peak):
    """The number to subtract before exponentiating: the peak, or 0 where it is infinite (inf - inf is NaN)."""
    return tl.where(tl.abs(peak) == INF, 0.0, peak)


@triton.jit
def drop_views(
    tile, start, step, count, first_row, first_column, VIEWS: tl.constexpr, NOTHING: tl.constexpr
):  # fmt: skip
    """Write NOTHING where views of one thing meet: row i leaves out columns start + (i + k*step) mod count, k < VIEWS.

    They lie on diagonals, which most tiles do not cross: two comparisons of numbers say so.
    """
    rows = first_row + tl.arange(0, tile.shape[0])
    columns = first_column + tl.arange(0, tile.shape[1])
    lowest = first_column - first_row - tile.shape[0]
    highest = first_column - first_row + tile.shape[1]
    for view in tl.static_range(VIEWS):
        diagonal = start + view * step
        wrapped = diagonal - count
        if ((lowest < diagonal) & (diagonal < highest)) | ((lowest < wrapped) & (wrapped < highest)):
            place = rows + view * step
            place = start + tl.where(place < count, place, place - count)
            tile = tl.where(place[:, None] == columns[None, :], NOTHING, tile)
    return tile


@triton.jit
def drop_listed(tile, exclude, listers, count, listed, first_column, NOTHING: tl.constexpr):
    """Write NOTHING at the columns that each row lists in ``exclude`` (count, listed).

    ``listers`` are the tile's rows. Excluded logits become -inf. Excluded weights become 0 after they are computed:
    e^(-inf - lse) is NaN where lse is.
    """
    width: tl.constexpr = tile.shape[1]
    for place in range(listed):
        column = tl.load(exclude + listers.to(tl.int64) * listed + place, mask=listers < count, other=-1) - first_column
        column = tl.where((column >= 0) & (column < width), column, -1).to(tl.int32)
        if tl.max(column, 0) >= 0:
            tile = tl.where(column[:, None] == tl.arange(0, width)[None, :], NOTHING, tile)
    return tile


@triton.jit
def drop_labels(
    tile, row_labels, column_labels, first_row, first_column, n, m, ALIKE: tl.constexpr, NOTHING: tl.constexpr
):
    """Write NOTHING where the labels of row and column are equal, or, without ALIKE, where they are not."""
    rows = first_row + tl.arange(0, tile.shape[0])
    columns = first_column + tl.arange(0, tile.shape[1])
    of_rows = tl.load(row_labels + rows, mask=rows < n, other=0)
    of_columns = tl.load(column_labels + columns, mask=columns < m, other=0)
    equal = of_rows[:, None] == of_columns[None, :]
    if ALIKE:
        return tl.where(equal, NOTHING, tile)
    else:
        return tl.where(equal, tile, NOTHING)


@triton.jit
def load_lse(lse, indices, n):
    """Load lse, as +inf where nothing was left to sum: every weight e^(S - lse) is zero there."""
    loaded = tl.load(lse + indices, mask=indices < n, other=-INF)
    return tl.where(loaded == -INF, INF, loaded)


@triton.jit
def merged(peaks, totals, indices, n, stride, parts, PARTS: tl.constexpr):
    """Join ``parts`` running sums per index, ``stride`` numbers apart, to lse; it is given without totals.

    PARTS of them are loaded at a time. One after another would wait for memory as often, and few rows have many parts.
    """
    if totals is None:
        return tl.load(peaks + indices, mask=indices < n, other=-INF)
    else:
        peak = tl.full(indices.shape, -INF, tl.float32)
        total = tl.zeros(indices.shape, tl.float32)
        for first in range(0, parts, PARTS):
            places = first + tl.arange(0, PARTS)
            inside = (places[:, None] < parts) & (indices[None, :] < n)
            next_peaks = tl.load(pairs(peaks, places, indices, stride), mask=inside, other=-INF)
            next_totals = tl.load(pairs(totals, places, indices, stride), mask=inside, other=0.0)
            new = tl.maximum(peak, tl.max(next_peaks, 0))
            point = reference_point(new)
            total = total * exp(peak - point) + tl.sum(next_totals * exp(next_peaks - point[None, :]), 0)
            peak = new
        return reference_point(peak) + tl.log(total)


@triton.jit
def sum_of_parts(
    moved, rows, features, n, d, part_rows, parts, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """A tile of the sum over parts that are ``part_rows`` rows apart, zero beyond N and D.

    Four parts are loaded at a time, so that the sum does not wait for memory once for each.
    """
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(0, parts, 4):
        for place in tl.static_range(4):
            part = tl.cast(first + place, tl.int64)
            inside = (rows[:, None] < tl.where(part < parts, n, 0)) & (features[None, :] < d)
            total += tl.load(pairs(moved, part * part_rows + rows, features, d), mask=inside, other=0.0)
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


# --- what sweeps left -----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n", "parts"])
def merge_kernel(peaks, totals, lse, n, parts, BLOCK: tl.constexpr, PARTS: tl.constexpr):
    """`merged` running sums: (parts, N) -> (N,)."""
    indices = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(lse + indices, merged(peaks, totals, indices, n, n, parts, PARTS), mask=indices < n)


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
    moved, row_peaks, lse, attended, n, d, parts, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PARTS: tl.constexpr
):  # fmt: skip
    """softmax(S)*Y from each part's sum of e^S*y, (parts, N, D) -> (N, D); zero where nothing was left to sum.

    A program has a few rows and features, since rows are few where keys are many; it loads PARTS parts at a time.
    """
    slices = tl.cdiv(d, BLOCK_D)
    rows = (tl.program_id(0) // slices) * BLOCK_N + tl.arange(0, BLOCK_N)
    features = (tl.program_id(0) % slices) * BLOCK_D + tl.arange(0, BLOCK_D)
    row_lse = load_lse(lse, rows, n)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for first in range(0, parts, PARTS):
        for place in tl.static_range(PARTS):
            part = tl.cast(first + place, tl.int64)
            state, known = part * n + rows, rows < tl.where(part < parts, n, 0)
            peak = tl.load(row_peaks + state, mask=known, other=-INF)
            some = tl.load(pairs(moved, state, features, d), mask=known[:, None] & (features[None, :] < d), other=0.0)
            total += some * exp(peak - row_lse)[:, None]
    inside = (rows[:, None] < n) & (features[None, :] < d)
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
