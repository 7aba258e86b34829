# SPDX-License-Identifier: Apache-2.0
"""The correlation family in Triton: moments of columns, products of standardised columns, energies, and gradients.

    a = (z - mean) * scale, rounded to the dtype of the product as it is loaded: standardised columns are never stored
    mean       (2, D) per view: rounded, and what rounding left of it
    samples    K = a a^T, N x N       2*N^2*D operations per view, half of them where all rows are there (symmetric),
                                      in float32
    features   C = a^T b, D x D       2*N*D^2 operations, half of them per view where b is a
    energies   one read of the matrix
    da         K a or a off(C)        2*N^2*D or 2*N*D^2 operations per view; the same kernel writes dz

Sums are float32, but sums of squares are carried from block to block in float64. Their order depends on shapes alone:
programs that share a sum leave parts of it, which are added in a fixed order. No atomics, so the same inputs give the
same bits. Offsets of rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import grouped, load_rows, pairs, triangle

# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def _load_features(x, features, d):
    """One number per feature, to go with a tile of rows."""
    return tl.load(x + features, mask=features < d, other=0.0)[None, :]


@triton.jit
def load_centred(z, mean, rows, features, n, d, stride):
    """A tile of z - mean in float32; ``mean`` (2, D) holds the rounded mean and its remainder."""
    part = load_rows(z, rows, features, n, d, stride).to(tl.float32)
    return (part - _load_features(mean, features, d)) - _load_features(mean + d, features, d)


@triton.jit
def _load_columns(z, mean, scale, rows, features, n, d, stride, DTYPE: tl.constexpr):
    """A tile of a, zero beyond N and D. Otherwise rows beyond N would add -mean * scale to every sum over rows."""
    if mean is not None:
        part = tl.where(rows[:, None] < n, load_centred(z, mean, rows, features, n, d, stride), 0.0)
    else:
        part = load_rows(z, rows, features, n, d, stride).to(tl.float32)
    if scale is not None:
        part *= _load_features(scale, features, d)
    return part.to(DTYPE)


@triton.jit
def _load_off_diagonal(matrix, shrink, rows, columns, height, width, first, DTYPE: tl.constexpr):
    """A tile of matrix * shrink without the diagonal, which in row i is column ``first`` + i."""
    inside = (rows[:, None] < height) & (columns[None, :] < width)
    part = tl.load(pairs(matrix, rows, columns, width), mask=inside, other=0.0)
    return tl.where(rows[:, None] + first == columns[None, :], 0.0, part * shrink).to(DTYPE)


# --- moments --------------------------------------------------------------------------------------------------------


@triton.jit
def pivot_of(z, features, d, CENTRE: tl.constexpr):
    """The first row, to which means are kept relative; zero where nothing is centred.

    A mean of 1000 in float32 is off by some 3e-5. The distance of two such means, which the squares need, would be off
    by as much.
    """
    if CENTRE:
        pivot = tl.load(z + features, mask=features < d, other=0.0).to(tl.float32)
    else:
        pivot = tl.zeros(features.shape, tl.float32)
    return pivot


@triton.jit
def store_mean(to, mean, pivot, features, d):
    """Store pivot + mean as two float32 numbers: the rounded sum, and its remainder."""
    whole = pivot.to(tl.float64) + mean
    rounded = whole.to(tl.float32)
    tl.store(to + features, rounded, mask=features < d)
    tl.store(to + d + features, (whole - rounded.to(tl.float64)).to(tl.float32), mask=features < d)


@triton.jit
def _away(z, pivot, rows, features, end, d, stride):
    """A tile of z, and of z - pivot, both in float64 and zero beyond the last row."""
    inside = rows[:, None] < end
    part = load_rows(z, rows, features, end, d, stride).to(tl.float64)
    return part, tl.where(inside, part - pivot.to(tl.float64)[None, :], 0.0)


@triton.jit
def _about_mean(total, first, second, count, CENTRE: tl.constexpr):
    """Sums over rows of products about the means, from those about the pivots and the sums of both factors."""
    about = tl.sum(total, 0)
    if CENTRE:
        about -= first * second / count
    return about


@triton.jit(do_not_specialize=["n", "span", "column_blocks"])
def moments_kernel(
    z0, z1, means, squares, products, gaps, n, d, z0_stride, z1_stride, span, column_blocks,
    CENTRE: tl.constexpr, WHOLE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Moments of ``span`` rows each, in float64: means and squares (parts, V, D), and with z1 products of both views
    and gaps, the sums of (z0 - z1)^2, (parts, D).

    Each thread sums its own rows, so that the loop exchanges nothing. Sums are float64 and about the first row, which
    lies within sqrt(N) deviations of the mean: taking N mean^2 off costs N roundings of 2^-53 at most. WHOLE: one part
    has all rows, and stores means as (V, 2, D) in float32; otherwise they stay relative to the pivot.
    """
    part = (tl.program_id(0) // column_blocks).to(tl.int64)
    features = (tl.program_id(0) % column_blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    begin = (part * span).to(tl.int32)
    end = tl.minimum(begin + span, n)
    pivot0 = pivot_of(z0, features, d, CENTRE)
    sum0 = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
    square0 = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
    if z1 is not None:
        pivot1 = pivot_of(z1, features, d, CENTRE)
        sum1 = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
        square1 = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
        product = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
        gap = tl.zeros((BLOCK_N, BLOCK_D), tl.float64)
    for start in range(begin, end, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        part0, away0 = _away(z0, pivot0, rows, features, end, d, z0_stride)
        if CENTRE:
            sum0 += away0
        square0 += away0 * away0
        if z1 is not None:
            part1, away1 = _away(z1, pivot1, rows, features, end, d, z1_stride)
            if CENTRE:
                sum1 += away1
            square1 += away1 * away1
            product += away0 * away1
            gap += (part0 - part1) * (part0 - part1)
    inside = features < d
    count = tl.cast(end - begin, tl.float64)
    first = tl.sum(sum0, 0)
    # Rounding may leave less than nothing of a square; NaN stays.
    about = _about_mean(square0, first, first, count, CENTRE)
    squares0 = tl.where(about < 0, 0.0, about)
    if z1 is not None:
        second = tl.sum(sum1, 0)
        about = _about_mean(square1, second, second, count, CENTRE)
        tl.store(squares + 2 * part * d + features, squares0, mask=inside)
        tl.store(squares + (2 * part + 1) * d + features, tl.where(about < 0, 0.0, about), mask=inside)
        tl.store(products + part * d + features, _about_mean(product, first, second, count, CENTRE), mask=inside)
        tl.store(gaps + part * d + features, tl.sum(gap, 0), mask=inside)
    else:
        tl.store(squares + part * d + features, squares0, mask=inside)
    if WHOLE:
        store_mean(means, first / count, pivot0, features, d)
        if z1 is not None:
            store_mean(means + 2 * d, second / count, pivot1, features, d)
    elif z1 is not None:
        tl.store(means + 2 * part * d + features, first / count, mask=inside)
        tl.store(means + (2 * part + 1) * d + features, second / count, mask=inside)
    else:
        tl.store(means + part * d + features, first / count, mask=inside)


@triton.jit
def merged(
    part_means, part_squares, part_products, part_gaps, features, n, d, span, parts, BOTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Moments of all rows from those of ``parts`` spans, joined in order: mean and squares of each view, products, gap.
    With one view (not BOTH) the rest are zeros.
    """
    inside = features < d
    mean0 = tl.zeros((BLOCK,), tl.float64)
    squares0 = tl.zeros((BLOCK,), tl.float64)
    mean1 = tl.zeros((BLOCK,), tl.float64)
    squares1 = tl.zeros((BLOCK,), tl.float64)
    product = tl.zeros((BLOCK,), tl.float64)
    gap = tl.zeros((BLOCK,), tl.float64)
    for part in range(parts):
        before = tl.cast(part * span, tl.float64)
        count = tl.cast(tl.minimum(n - part * span, span), tl.float64)
        share = count / (before + count)
        state = tl.cast(part, tl.int64) * d + features
        if BOTH:
            first, second = state + tl.cast(part, tl.int64) * d, state + tl.cast(part + 1, tl.int64) * d
            away0 = tl.load(part_means + first, mask=inside, other=0.0) - mean0
            away1 = tl.load(part_means + second, mask=inside, other=0.0) - mean1
            mean0 += away0 * share
            mean1 += away1 * share
            squares0 += tl.load(part_squares + first, mask=inside, other=0.0) + away0 * away0 * (before * share)
            squares1 += tl.load(part_squares + second, mask=inside, other=0.0) + away1 * away1 * (before * share)
            product += tl.load(part_products + state, mask=inside, other=0.0) + away0 * away1 * (before * share)
            gap += tl.load(part_gaps + state, mask=inside, other=0.0)
        else:
            away0 = tl.load(part_means + state, mask=inside, other=0.0) - mean0
            mean0 += away0 * share
            squares0 += tl.load(part_squares + state, mask=inside, other=0.0) + away0 * away0 * (before * share)
    return mean0, squares0, mean1, squares1, product, gap


@triton.jit(do_not_specialize=["n", "span", "parts"])
def merge_kernel(
    z0, z1, part_means, part_squares, part_products, part_gaps, means, squares, products, gaps, n, d, span, parts,
    CENTRE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Join the moments of ``parts`` spans, in order, to those of all rows."""
    features = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = features < d
    mean0, squares0, mean1, squares1, product, gap = merged(
        part_means, part_squares, part_products, part_gaps, features, n, d, span, parts, z1 is not None, BLOCK
    )
    store_mean(means, mean0, pivot_of(z0, features, d, CENTRE), features, d)
    tl.store(squares + features, squares0, mask=inside)
    if z1 is not None:
        store_mean(means + 2 * d, mean1, pivot_of(z1, features, d, CENTRE), features, d)
        tl.store(squares + d + features, squares1, mask=inside)
        tl.store(products + features, product, mask=inside)
        tl.store(gaps + features, gap, mask=inside)


# --- the matrix -----------------------------------------------------------------------------------------------------


# Launches specialise on the sizes that masks along a row compare with: at multiples of 16, tiles move in wide words.
@triton.jit(do_not_specialize=["parts"])
def matrix_kernel(
    left, right, left_mean, left_scale, right_mean, right_scale, out,
    height, width, depth, left_stride, right_stride, left_step, right_step, parts,
    SAMPLES: tl.constexpr, SYMMETRIC: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of a b^T (SAMPLES, a sum over features) or of a^T b (a sum over rows), for one of ``parts`` of ``depth``.

    SYMMETRIC: b is a, and only tiles of the lower triangle run; each is stored twice, the second time transposed.
    A second axis of programs takes one view after another, which lie ``left_step`` and ``right_step`` numbers apart.
    """
    view = tl.program_id(1).to(tl.int64)
    left += view * left_step
    right += view * right_step
    place = tl.program_id(0) // parts
    part = tl.program_id(0) % parts
    if SYMMETRIC:
        row_block, column_block = triangle(place)
    else:
        row_block, column_block = grouped(place, tl.cdiv(height, BLOCK_N), tl.cdiv(width, BLOCK_M), 8)
    rows = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = column_block * BLOCK_M + tl.arange(0, BLOCK_M)
    span = tl.cdiv(tl.cdiv(depth, BLOCK_K), parts) * BLOCK_K
    begin = part * span
    end = tl.minimum(begin + span, depth)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(begin, end, BLOCK_K):
        along = start + tl.arange(0, BLOCK_K)
        if SAMPLES:
            a = _load_columns(left, left_mean, left_scale, rows, along, height, depth, left_stride, DTYPE)
            b = _load_columns(right, right_mean, right_scale, columns, along, width, depth, right_stride, DTYPE)
            total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
        else:
            a = _load_columns(left, left_mean, left_scale, along, rows, depth, height, left_stride, DTYPE)
            b = _load_columns(right, right_mean, right_scale, along, columns, depth, width, right_stride, DTYPE)
            total = tl.dot(tl.trans(a), b, total, input_precision=PRECISION)
    out += (view * parts + part) * height * width
    inside = (rows[:, None] < height) & (columns[None, :] < width)
    tl.store(pairs(out, rows, columns, width), total, mask=inside)
    if SYMMETRIC:
        below = tl.where(row_block == column_block, 0, width)
        mirrored = (columns[:, None] < below) & (rows[None, :] < height)
        tl.store(pairs(out, columns, rows, width), tl.trans(total), mask=mirrored)


# --- energies -------------------------------------------------------------------------------------------------------


@triton.jit
def _unit(largest):
    """The power of two below ``largest``, clamped so that it and its inverse are normal float32 numbers.

    Numbers are divided by it before they are squared, so that sums of their squares fit.
    """
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    exponent = tl.where(exponent == 255, 127, tl.minimum(tl.maximum(exponent, 1), 253))  # infinity is divided by 1
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["blocks"])
def sample_energies_kernel(matrix, other, sums, size, blocks, BLOCK: tl.constexpr):
    """Sums of matrix * other over blocks of BLOCK numbers, (V, blocks)."""
    block = tl.program_id(0).to(tl.int64)
    view = tl.program_id(1).to(tl.int64)
    places = block * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(matrix + view * size + places, mask=places < size, other=0.0)
    b = tl.load(other + view * size + places, mask=places < size, other=0.0)
    tl.store(sums + view * blocks + block, tl.sum(a * b, 0))


@triton.jit(do_not_specialize=["row_blocks", "column_blocks"])
def feature_energies_kernel(
    matrix, other, row_parts, column_parts, sums, rounded, d, shrink, row_blocks, column_blocks,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Sums of matrix * other off the diagonal, in float64. A program sums its tile along rows, to
    (V, column_blocks, D), and along columns, to (V, row_blocks, D), unless ``column_parts`` is None. Where they are
    asked for, ``sums`` (V, tiles) gets the tile's sum, and ``rounded`` (V, D, D) the matrix times ``shrink``, without
    its diagonal.

    Covariances, and their sums over rows, may have any size: entries are divided by a power of two near the tile's
    largest before they are multiplied.
    """
    row_block = tl.program_id(0) // column_blocks
    column_block = tl.program_id(0) % column_blocks
    view = tl.program_id(1).to(tl.int64)
    rows = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = column_block * BLOCK_M + tl.arange(0, BLOCK_M)
    a = _load_off_diagonal(matrix + view * d * d, 1.0, rows, columns, d, d, 0, tl.float32)
    b = _load_off_diagonal(other + view * d * d, 1.0, rows, columns, d, d, 0, tl.float32)
    unit_a, unit_b = _unit(tl.max(tl.abs(a))), _unit(tl.max(tl.abs(b)))
    products = (a * (1.0 / unit_a)) * (b * (1.0 / unit_b))
    lift = unit_a.to(tl.float64) * unit_b.to(tl.float64)
    along_rows = tl.sum(products, 1).to(tl.float64) * lift
    tl.store(row_parts + (view * column_blocks + column_block) * d + rows, along_rows, mask=rows < d)
    if column_parts is not None:
        along_columns = tl.sum(products, 0).to(tl.float64) * lift
        tl.store(column_parts + (view * row_blocks + row_block) * d + columns, along_columns, mask=columns < d)
    if sums is not None:
        tl.store(sums + view * (row_blocks * column_blocks) + tl.program_id(0), tl.sum(along_rows, 0))
    if rounded is not None:
        inside = (rows[:, None] < d) & (columns[None, :] < d)
        part = (a * shrink).to(rounded.dtype.element_ty)
        tl.store(pairs(rounded + view * d * d, rows, columns, d), part, mask=inside)


# --- gradients ------------------------------------------------------------------------------------------------------


@triton.jit
def _add_terms(
    total, z, other, mean, other_mean, scale, other_scale, own, mixed, pull, rows, features, n, d, z_stride,
    other_stride,
):  # fmt: skip
    """total + own a + mixed b + pull (z - z'), with a and b the columns of this view and of the other. A term whose
    factor is None is left out.
    """
    if own is not None:
        mine = load_centred(z, mean, rows, features, n, d, z_stride) * _load_features(scale, features, d)
        total += _load_features(own, features, d) * mine
        if mixed is not None:
            theirs = load_centred(other, other_mean, rows, features, n, d, other_stride)
            total += _load_features(mixed, features, d) * (theirs * _load_features(other_scale, features, d))
        if pull is not None:
            gap = load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
            gap -= load_rows(other, rows, features, n, d, other_stride).to(tl.float32)
            total += tl.load(pull) * gap
    return total


@triton.jit(do_not_specialize=["n", "first"])
def backward_kernel(
    source, source_mean, source_scale, matrix, unit,
    z, other, mean, other_mean, scale, other_scale, outer, own, mixed, pull, out, sums,
    n, d, depth, first, source_stride, z_stride, other_stride,
    SAMPLES: tl.constexpr, TRANSPOSED: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of dz = outer da + the terms of `_add_terms`. da is K a (SAMPLES), or a off(C), or a off(C)^T
    (TRANSPOSED), with a the columns of ``source``. An ``outer`` that is None counts as 1.

    ``sums``: where it is given, ``out`` is da in float32, and the sums of da a over each block of rows are stored in
    it, (row blocks, D). dz needs them over all rows, which no program has yet; finish_kernel goes on from there.
    ``unit``: entries of C are divided by it so that float16 holds them; None for no division.

    The diagonal of K is about D, where other entries are about sqrt(D), and the gradient of the scale takes most of
    what it adds away again. It stays out of the product, which tf32 may round, and is multiplied in float32.
    """
    row_block, column_block = grouped(tl.program_id(0), tl.cdiv(n, BLOCK_N), tl.cdiv(d, BLOCK_D), 8)
    rows = row_block * BLOCK_N + tl.arange(0, BLOCK_N)
    features = column_block * BLOCK_D + tl.arange(0, BLOCK_D)
    shrink = 1.0
    if unit is not None:
        shrink = 1.0 / tl.load(unit)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, depth, BLOCK_K):
        along = start + tl.arange(0, BLOCK_K)
        if SAMPLES:
            left = _load_off_diagonal(matrix, 1.0, rows, along, n, depth, first, DTYPE)
            right = _load_columns(
                source, source_mean, source_scale, along, features, depth, d, source_stride, DTYPE
            )  # fmt: skip
            total = tl.dot(left, right, total, input_precision=PRECISION)
        else:
            left = _load_columns(source, source_mean, source_scale, rows, along, n, depth, source_stride, DTYPE)
            if TRANSPOSED:
                right = tl.trans(_load_off_diagonal(matrix, shrink, features, along, d, d, 0, DTYPE))
            else:
                right = _load_off_diagonal(matrix, shrink, along, features, d, d, 0, DTYPE)
            total = tl.dot(left, right, total, input_precision=PRECISION)
    if unit is not None:
        total *= tl.load(unit)
    if SAMPLES:
        a = _load_columns(z, mean, scale, rows, features, n, d, z_stride, DTYPE).to(tl.float32)
        diagonal = tl.load(matrix + rows.to(tl.int64) * (depth + 1) + first, mask=rows < n, other=0.0)
        total += diagonal[:, None] * a
    inside = (rows[:, None] < n) & (features[None, :] < d)
    if sums is not None:
        tl.store(sums + row_block.to(tl.int64) * d + features, tl.sum(total * a, 0), mask=features < d)
    else:
        if outer is not None:
            total *= _load_features(outer, features, d)
        total = _add_terms(
            total, z, other, mean, other_mean, scale, other_scale, own, mixed, pull, rows, features, n, d, z_stride,
            other_stride,
        )  # fmt: skip
    tl.store(pairs(out, rows, features, d), total.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def finish_kernel(
    da, z, other, mean, other_mean, scale, other_scale, outer, own, mixed, pull, dz, n, d, z_stride, other_stride,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dz = outer da + the terms of `_add_terms`. ``da``, float32 or None, may be ``dz`` itself."""
    column_blocks = tl.cdiv(d, BLOCK_D)
    rows = (tl.program_id(0) // column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    features = (tl.program_id(0) % column_blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if da is not None:
        total = load_rows(da, rows, features, n, d, d)
        if outer is not None:
            total *= _load_features(outer, features, d)
    total = _add_terms(
        total, z, other, mean, other_mean, scale, other_scale, own, mixed, pull, rows, features, n, d, z_stride,
        other_stride,
    )  # fmt: skip
    inside = (rows[:, None] < n) & (features[None, :] < d)
    tl.store(pairs(dz, rows, features, d), total.to(dz.dtype.element_ty), mask=inside)
