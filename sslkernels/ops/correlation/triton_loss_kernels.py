# SPDX-License-Identifier: Apache-2.0
"""A loss of columns and its gradient in Triton: everything but the moments and the products.

    columns      parts of moments -> mean, squares, scale, diagonal, and the terms of the loss that columns have alone
    standardise  a and b, rounded once to the dtype of the products and stored (V, N, D); on the side of samples also
                 d_j = sum_n a_nj b_nj of the rounded columns (of a_nj^2 where each view is by itself)
    energies     sums of squares of the products, and the products rounded for the second multiplication
    slopes       the value, by one program; and the factors of the gradient's terms, by the others
    finish       dz = outer off + own a + mixed b + pull (z - z')

``off`` is da without what the diagonal of C adds to it. On the side of samples the product is K a with K's diagonal
left out; in row n, K_nn a is added, and d_j b is taken off, both from the rounded columns. So nothing cancels: the sum
of d_j^2 and the total that it is taken from are sums of the same numbers.

Columns that the loss does not standardise are multiplied by one power of two for each view (`_matrix_unit`) before
they are rounded. One of them may be so wide that K is nearly its own product, and that column's gradient is what K a
leaves beside it. There K is split into its rounding and the rounding of the rest, [high low], and multiplies [a; a], so
that it keeps 16 bits or more (SPLIT). Numbers per column are float64. No atomics, and orders depend on shapes alone.
"""

import triton
import triton.language as tl

from sslkernels.ops.correlation.triton_kernels import load_centred, merged, pivot_of, store_mean
from sslkernels.ops.triton_pieces import load_rows, pairs

# --- pieces ---------------------------------------------------------------------------------------------------------


@triton.jit
def _power(size):
    """The power of two that brings a sum of squares to between 1 and 4, clamped so that float32 holds it 2^14 times.

    Zero, infinity and NaN get the power of the nearest end; it is finite, so that zeros stay zeros.
    """
    exponent = ((size.to(tl.int64, bitcast=True) >> 52) & 2047) - 1023
    exponent = tl.minimum(tl.maximum(exponent, -200), 240)
    return ((1023 - (exponent >> 1)) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _matrix_unit(largest, blocks, LIFT: tl.constexpr, BLOCKS: tl.constexpr):
    """The unit of all columns of a view: that of the largest, times ``LIFT`` so that float16 keeps small columns."""
    places = tl.arange(0, BLOCKS)
    return _power(tl.max(tl.load(largest + places, mask=places < blocks, other=0.0), 0)) * LIFT


@triton.jit
def _load(x, features, d):
    return tl.load(x + features, mask=features < d, other=0.0)


@triton.jit
def _inverse(x):
    return tl.where(x == 0, 1.0, 1.0 / x)


@triton.jit
def _clamped(x):
    """float64 to float32; infinities become the largest number, which times 0 is 0. NaN stays."""
    x = tl.where(x > 3.4028234663852886e38, 3.4028234663852886e38, x)
    return tl.where(x < -3.4028234663852886e38, -3.4028234663852886e38, x).to(tl.float32)


@triton.jit
def _rounded(x, DTYPE: tl.constexpr):
    """x as the products read it, in float32."""
    return x.to(DTYPE).to(tl.float32)


# --- numbers of each column -----------------------------------------------------------------------------------------


@triton.jit
def _hinge(squares, inside, n, eps):
    deviation = tl.sqrt(squares / (n - 1) + eps)
    return tl.sum(tl.where(inside & (deviation < 1), 1 - deviation, tl.where(deviation >= 1, 0.0, deviation * 0)), 0)


@triton.jit
def _scale_of(squares, n, eps, SCALED: tl.constexpr, UNBIASED: tl.constexpr, OUTSIDE: tl.constexpr):
    """Return the factor of each column: the inverse of its deviation, or without scaling a power of two near that."""
    if not SCALED:
        scale = _power(squares)
    elif OUTSIDE:
        scale = _inverse(tl.sqrt(squares / (n - UNBIASED)) + eps)
    else:
        scale = _inverse(tl.sqrt(squares / (n - UNBIASED) + eps))
    return scale


@triton.jit(do_not_specialize=["n", "span", "parts", "eps", "gap", "agreement", "hinge", "hinge_eps"])
def columns_kernel(
    z0, z1, part_means, part_squares, part_products, part_gaps,
    mean, squares, scale, diagonal, largest, terms,
    n, d, span, parts, eps: tl.float64, gap: tl.float64, agreement: tl.float64, hinge: tl.float64,
    hinge_eps: tl.float64,
    CROSS: tl.constexpr, SCALED: tl.constexpr, UNBIASED: tl.constexpr, OUTSIDE: tl.constexpr, HINGE: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Join the moments of ``parts`` spans. Per column: mean (V, 2, D) and scale (V, D) in float32, squares (V, D), and
    the diagonal of C (1 or V, D). Per block of columns: the largest square of each view, and the terms' sum.
    """
    features = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = features < d
    blocks = tl.num_programs(0)
    mean0, squares0, mean1, squares1, product, apart = merged(
        part_means, part_squares, part_products, part_gaps, features, n, d, span, parts, z1 is not None, BLOCK
    )
    store_mean(mean, mean0, pivot_of(z0, features, d, True), features, d)
    tl.store(squares + features, squares0, mask=inside)
    tl.store(largest + tl.program_id(0), tl.max(tl.where(inside, squares0, 0.0), 0))
    scale0 = _scale_of(squares0, n, eps, SCALED, UNBIASED, OUTSIDE)
    tl.store(scale + features, scale0.to(tl.float32), mask=inside)
    total = tl.zeros((), tl.float64)
    if HINGE:
        total += hinge * _hinge(squares0, inside, n, hinge_eps)
    if not CROSS:
        tl.store(diagonal + features, squares0 * scale0 * scale0 if SCALED else squares0, mask=inside)
    if z1 is not None:
        store_mean(mean + 2 * d, mean1, pivot_of(z1, features, d, True), features, d)
        tl.store(squares + d + features, squares1, mask=inside)
        tl.store(largest + blocks + tl.program_id(0), tl.max(tl.where(inside, squares1, 0.0), 0))
        scale1 = _scale_of(squares1, n, eps, SCALED, UNBIASED, OUTSIDE)
        tl.store(scale + d + features, scale1.to(tl.float32), mask=inside)
        if HINGE:
            total += hinge * _hinge(squares1, inside, n, hinge_eps)
        total += gap * tl.sum(tl.where(inside, apart, 0.0), 0)
        if CROSS:
            own = product * scale0 * scale1
            tl.store(diagonal + features, own, mask=inside)
            missing = 1 - own / n
            total += agreement * tl.sum(tl.where(inside, missing * missing, 0.0), 0)
        else:
            tl.store(diagonal + d + features, squares1 * scale1 * scale1 if SCALED else squares1, mask=inside)
    tl.store(terms + tl.program_id(0), total)


# --- columns --------------------------------------------------------------------------------------------------------


@triton.jit
def _times_scale(z, scale, unit, features, d, SCALED: tl.constexpr):
    if SCALED:
        z *= _load(scale, features, d)[None, :]
    else:
        z *= unit
    return z


@triton.jit
def _product_sum(a, b, DTYPE: tl.constexpr):
    """Sums of a * b over rows. Products of 16-bit numbers are exact in float32, others are taken in float64."""
    if DTYPE == tl.float32:
        total = tl.sum(a.to(tl.float64) * b.to(tl.float64), 0)
    else:
        total = tl.sum(a * b, 0).to(tl.float64)
    return total


@triton.jit(do_not_specialize=["n", "span", "column_blocks", "blocks"])
def standardise_kernel(
    z0, z1, mean, scale, largest, columns, diagonal, n, d, z0_stride, z1_stride, span, column_blocks, blocks,
    CROSS: tl.constexpr, SPLIT: tl.constexpr, SCALED: tl.constexpr, LIFT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store ``span`` rows of a block of columns, centred, scaled and rounded, (V, N, D) in the dtype of products; each
    view twice, (V, 2, N, D), if SPLIT.

    ``diagonal`` (1 or V, D) gets d_j of the rounded columns; a program then has all rows. None: nobody asks for it.
    """
    DTYPE: tl.constexpr = columns.dtype.element_ty
    size = tl.cast(n, tl.int64) * d
    other_columns = columns + (2 * size if SPLIT else size)
    begin = tl.program_id(0) // column_blocks * span
    end = tl.minimum(begin + span, n)
    features = (tl.program_id(0) % column_blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    unit0, unit1 = 1.0, 1.0
    if not SCALED:
        unit0 = _matrix_unit(largest, blocks, LIFT, BLOCKS).to(tl.float32)
        if z1 is not None:
            unit1 = _matrix_unit(largest + blocks, blocks, LIFT, BLOCKS).to(tl.float32)
    first = tl.zeros((BLOCK_D,), tl.float64)
    second = tl.zeros((BLOCK_D,), tl.float64)
    for start in range(begin, end, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        inside = (rows[:, None] < end) & (features[None, :] < d)
        a = _times_scale(load_centred(z0, mean, rows, features, n, d, z0_stride), scale, unit0, features, d, SCALED)
        a = a.to(DTYPE)
        tl.store(pairs(columns, rows, features, d), a, mask=inside)
        if SPLIT:
            tl.store(pairs(columns + size, rows, features, d), a, mask=inside)
        a = tl.where(inside, a.to(tl.float32), 0.0)
        if z1 is not None:
            b = load_centred(z1, mean + 2 * d, rows, features, n, d, z1_stride)
            b = _times_scale(b, scale + d, unit1, features, d, SCALED).to(DTYPE)
            tl.store(pairs(other_columns, rows, features, d), b, mask=inside)
            if SPLIT:
                tl.store(pairs(other_columns + size, rows, features, d), b, mask=inside)
            b = tl.where(inside, b.to(tl.float32), 0.0)
        if diagonal is not None:
            if CROSS:
                first += _product_sum(a, b, DTYPE)
            else:
                first += _product_sum(a, a, DTYPE)
                if z1 is not None:
                    second += _product_sum(b, b, DTYPE)
    if diagonal is not None:
        tl.store(diagonal + features, first, mask=features < d)
        if not CROSS and z1 is not None:
            tl.store(diagonal + d + features, second, mask=features < d)


# --- energies -------------------------------------------------------------------------------------------------------


@triton.jit
def _round_off_diagonal(k, rounded, diagonal, rows, columns, n, shrink, SPLIT: tl.constexpr):
    """Store K's tile rounded, without its diagonal, and the diagonal in float32."""
    inside = (rows[:, None] < n) & (columns[None, :] < n)
    on = rows[:, None] == columns[None, :]
    off = tl.where(on, 0.0, k * shrink)
    high = off.to(rounded.dtype.element_ty)
    places = pairs(rounded, rows, columns, 2 * n if SPLIT else n)
    tl.store(places, high, mask=inside)
    if SPLIT:
        tl.store(places + n, (off - high.to(tl.float32)).to(rounded.dtype.element_ty), mask=inside)
    tl.store((diagonal + rows)[:, None] + tl.zeros_like(columns)[None, :], k, mask=inside & on)


@triton.jit(do_not_specialize=["column_blocks", "tiles"])
def samples_kernel(
    matrix, rounded, diagonal, sums, n, shrink, column_blocks, tiles,
    CROSS: tl.constexpr, VIEWS: tl.constexpr, SPLIT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Sums over a tile of K0 * K1 (1, tiles) if CROSS, else of each view's K^2 (V, tiles).

    ``rounded`` (V, N, N), unless it is None, gets K * shrink without the diagonal; (V, N, 2, N) if SPLIT. ``diagonal``
    (V, N) gets for each view the diagonal of the K that multiplies it: that of the other view if CROSS.
    """
    rows = tl.program_id(0) // column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.program_id(0) % column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (rows[:, None] < n) & (columns[None, :] < n)
    size = tl.cast(n, tl.int64) * n
    k = tl.load(pairs(matrix, rows, columns, n), mask=inside, other=0.0)
    if rounded is not None:
        _round_off_diagonal(k, rounded, diagonal + n if CROSS else diagonal, rows, columns, n, shrink, SPLIT)
    if VIEWS == 2:
        other = tl.load(pairs(matrix + size, rows, columns, n), mask=inside, other=0.0)
        if rounded is not None:
            second = rounded + (2 * size if SPLIT else size)
            _round_off_diagonal(
                other, second, diagonal if CROSS else diagonal + n, rows, columns, n, shrink, SPLIT
            )  # fmt: skip
        if not CROSS:
            tl.store(sums + tiles + tl.program_id(0), tl.sum(tl.sum(other * other, 1), 0).to(tl.float64))
            other = k
    else:
        other = k
    tl.store(sums + tl.program_id(0), tl.sum(tl.sum(k * other, 1), 0).to(tl.float64))


# --- the value, and factors of the gradient -------------------------------------------------------------------------


@triton.jit
def _sum_of(x, size, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, size, BLOCK):
        places = start + tl.arange(0, BLOCK)
        total += tl.load(x + places, mask=places < size, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def _off(sums, tiles, diagonal, d, unit, BLOCK: tl.constexpr):
    """The energy off the diagonal. On the side of samples (``diagonal``) that on it is taken off; it may round to less
    than nothing. ``unit`` to the fourth power is undone.
    """
    total = _sum_of(sums, tiles, BLOCK)
    if diagonal is not None:
        squares = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, d, BLOCK):
            entry = _load(diagonal, start + tl.arange(0, BLOCK), d)
            squares += entry * entry
        total -= tl.sum(squares, 0)
        total = tl.where(total < 0, 0.0, total)
    inverse = 1.0 / (unit * unit)
    return total * inverse * inverse


@triton.jit
def _store_value(
    value, terms, sums, diagonal, largest, d, tiles, blocks, g_off,
    CROSS: tl.constexpr, SCALED: tl.constexpr, VIEWS: tl.constexpr, LIFT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    total = _sum_of(terms, blocks, BLOCK)
    if sums is not None:
        unit = tl.full((), 1.0, tl.float64)
        if not SCALED:
            unit = _matrix_unit(largest, blocks, LIFT, BLOCKS)
        off = _off(sums, tiles, diagonal, d, unit, BLOCK)
        if VIEWS == 2 and not CROSS:
            if not SCALED:
                unit = _matrix_unit(largest + blocks, blocks, LIFT, BLOCKS)
            off += _off(sums + tiles, tiles, None if diagonal is None else diagonal + d, d, unit, BLOCK)
        total += g_off * off
    tl.store(value, total.to(tl.float32))


@triton.jit
def _load_off(
    da, z, other, mean, other_mean, scale, other_scale, unit, diagonal, drop, rows, features, n, d, z_stride,
    other_stride, grow, SCALED: tl.constexpr, SAMPLES: tl.constexpr, CROSS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tile of ``off``, and of a centred column. The rounded columns are made again, which reads no more than z."""
    total = load_rows(da, rows, features, n, d, d) * grow
    away = load_centred(z, mean, rows, features, n, d, z_stride)
    if SAMPLES:
        mine = _rounded(_times_scale(away, scale, unit, features, d, SCALED), DTYPE)
        if diagonal is not None:
            total += tl.load(diagonal + rows, mask=rows < n, other=0.0)[:, None] * mine
        if CROSS:
            far = load_centred(other, other_mean, rows, features, n, d, other_stride)
            mine = _rounded(_times_scale(far, other_scale, unit, features, d, SCALED), DTYPE)
        total -= drop[None, :] * mine
    return total, away


@triton.jit
def _along(
    da, z, other, mean, other_mean, scale, other_scale, diagonal, drop, features, n, d, z_stride, other_stride, grow,
    CROSS: tl.constexpr, DTYPE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Sums of off * a over all rows, for the gradient of the scale."""
    total = tl.zeros((BLOCK_D,), tl.float64)
    for start in range(0, n, BLOCK_N):
        rows = start + tl.arange(0, BLOCK_N)
        off, away = _load_off(
            da, z, other, mean, other_mean, scale, other_scale, 1.0, diagonal, drop, rows, features, n, d, z_stride,
            other_stride, grow, True, True, CROSS, DTYPE,
        )  # fmt: skip
        # Beyond N a column is -mean * scale, which float16 may not hold. A product of zero and that would be NaN.
        products = tl.where(rows[:, None] < n, off * (away * _load(scale, features, d)[None, :]), 0.0)
        total += tl.sum(products, 0).to(tl.float64)
    return total


@triton.jit
def _sum_parts(parts, count, features, d, BLOCK_D: tl.constexpr):
    total = tl.zeros((BLOCK_D,), tl.float64)
    for part in range(count):
        total += _load(parts + tl.cast(part, tl.int64) * d, features, d)
    return total


@triton.jit
def _store_factors(
    factors, squares, scale, other_scale, own_diagonal, unit, s, drop, features, n, d, step, eps, agreement, hinge,
    hinge_eps, factor,
    CROSS: tl.constexpr, SCALED: tl.constexpr, UNBIASED: tl.constexpr, OUTSIDE: tl.constexpr, HINGE: tl.constexpr,
):  # fmt: skip
    """Store outer, own, mixed and drop of one view; each is a product in float64 before it is rounded."""
    inside = features < d
    of_view = _load(squares, features, d)
    to_column = _load(scale, features, d).to(tl.float64)
    own = tl.zeros(features.shape, tl.float64)
    if HINGE:
        deviation = tl.sqrt(of_view / (n - 1) + hinge_eps)
        own += tl.where(deviation >= 1, 0.0, -hinge / ((n - 1) * deviation)) / to_column
    along = tl.zeros(features.shape, tl.float64)
    if CROSS:
        entry = _load(own_diagonal, features, d)
        slope = -2 * agreement / n * (1 - entry / n)
        along = slope * entry
        tl.store(factors + 2 * step + features, _clamped(to_column * slope), mask=inside)
    if SCALED:
        outer = factor * to_column
        if OUTSIDE:
            width = tl.sqrt(of_view / (n - UNBIASED))
            through = tl.where(width == 0, 0.0, -1.0 / ((n - UNBIASED) * width))
        else:
            through = -_inverse(tl.sqrt(of_view / (n - UNBIASED) + eps)) / (n - UNBIASED)
        own += through * (factor * s + along)
    else:
        outer = factor / (unit * unit) / unit + tl.zeros(features.shape, tl.float64)
    tl.store(factors + features, _clamped(outer), mask=inside)
    tl.store(factors + step + features, _clamped(own), mask=inside)
    tl.store(factors + 3 * step + features, drop, mask=inside)


@triton.jit(do_not_specialize=["tiles", "blocks", "parts", "eps", "g_off", "agreement", "hinge", "hinge_eps", "factor"])
def slopes_kernel(
    z0, z1, da0, da1, mean, squares, scale, diagonal, taken, largest, terms, sums, row_parts, column_parts,
    matrix_diagonal, value, factors,
    n, d, z0_stride, z1_stride, tiles, blocks, parts, grow,
    eps: tl.float64, g_off: tl.float64, agreement: tl.float64, hinge: tl.float64, hinge_eps: tl.float64,
    factor: tl.float64,
    CROSS: tl.constexpr, SCALED: tl.constexpr, UNBIASED: tl.constexpr, OUTSIDE: tl.constexpr, HINGE: tl.constexpr,
    NEED0: tl.constexpr, NEED1: tl.constexpr, DTYPE: tl.constexpr, LIFT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Program 0 stores the value. The others store the factors (4, V, D) of their columns: outer, own, mixed, drop.

    ``taken`` (1 or V, D) is d_j of the rounded columns, on the side of samples. On that of features ``row_parts`` and
    ``column_parts`` hold the energies of C's rows and columns, in ``parts`` parts.
    """
    VIEWS: tl.constexpr = 1 if z1 is None else 2
    if tl.program_id(0) == 0:
        _store_value(
            value, terms, sums, taken, largest, d, tiles, blocks, g_off, CROSS, SCALED, VIEWS, LIFT, BLOCKS, BLOCK
        )
    else:
        features = (tl.program_id(0) - 1) * BLOCK_D + tl.arange(0, BLOCK_D)
        step = VIEWS * d
        s = tl.zeros((BLOCK_D,), tl.float64)
        unit = tl.full((), 1.0, tl.float64)
        drop = tl.zeros((BLOCK_D,), tl.float32)
        if NEED0:
            if sums is not None and not SCALED:
                unit = _matrix_unit(largest, blocks, LIFT, BLOCKS)
            if taken is not None:
                drop = _load(taken, features, d).to(tl.float32)
                if SCALED:
                    s = _along(
                        da0, z0, z1, mean, mean + 2 * d, scale, scale + d, matrix_diagonal, drop, features, n, d,
                        z0_stride, z1_stride, grow, CROSS, DTYPE, BLOCK_N, BLOCK_D,
                    )  # fmt: skip
            elif row_parts is not None:
                s = _sum_parts(row_parts, parts, features, d, BLOCK_D)
            _store_factors(
                factors, squares, scale, scale + d, diagonal, unit, s, drop, features, n, d, step, eps, agreement,
                hinge, hinge_eps, factor, CROSS, SCALED, UNBIASED, OUTSIDE, HINGE,
            )  # fmt: skip
        if NEED1:
            if sums is not None and not SCALED:
                unit = _matrix_unit(largest + blocks, blocks, LIFT, BLOCKS)
            if taken is not None:
                drop = _load(taken if CROSS else taken + d, features, d).to(tl.float32)
                if SCALED:
                    s = _along(
                        da1, z1, z0, mean + 2 * d, mean, scale + d, scale,
                        None if matrix_diagonal is None else matrix_diagonal + n, drop, features, n, d, z1_stride,
                        z0_stride, grow, CROSS, DTYPE, BLOCK_N, BLOCK_D,
                    )  # fmt: skip
            elif row_parts is not None:
                s = _sum_parts(column_parts, parts, features, d, BLOCK_D)
            _store_factors(
                factors + d, squares + d, scale + d, scale, diagonal, unit, s, drop, features, n, d, step, eps,
                agreement, hinge, hinge_eps, factor, CROSS, SCALED, UNBIASED, OUTSIDE, HINGE,
            )  # fmt: skip


# --- the gradient ---------------------------------------------------------------------------------------------------


@triton.jit
def _store_gradient(
    dz, z, other, mean, other_mean, scale, other_scale, largest, diagonal, factors, rows, features, n, d, step,
    z_stride, other_stride, blocks, grow, twice_gap,
    ENERGY: tl.constexpr, SAMPLES: tl.constexpr, CROSS: tl.constexpr, SCALED: tl.constexpr, PULL: tl.constexpr,
    DTYPE: tl.constexpr, LIFT: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    if ENERGY:
        unit = 1.0
        if not SCALED:
            unit = _matrix_unit(largest, blocks, LIFT, BLOCKS).to(tl.float32)
        total, away = _load_off(
            dz, z, other, mean, other_mean, scale, other_scale, unit, diagonal, _load(factors + 3 * step, features, d),
            rows, features, n, d, z_stride, other_stride, grow, SCALED, SAMPLES, CROSS, DTYPE,
        )  # fmt: skip
        total *= _load(factors, features, d)[None, :]
    else:
        away = load_centred(z, mean, rows, features, n, d, z_stride)
        total = away * 0
    total += (away * _load(scale, features, d)[None, :]) * _load(factors + step, features, d)[None, :]
    if CROSS:
        far = load_centred(other, other_mean, rows, features, n, d, other_stride)
        total += (far * _load(other_scale, features, d)[None, :]) * _load(factors + 2 * step, features, d)[None, :]
    if PULL:
        apart = load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
        total += twice_gap * (apart - load_rows(other, rows, features, n, d, other_stride).to(tl.float32))
    tl.store(pairs(dz, rows, features, d), total, mask=(rows[:, None] < n) & (features[None, :] < d))


@triton.jit(do_not_specialize=["n", "blocks"])
def gradients_kernel(
    z0, z1, dz0, dz1, mean, scale, largest, matrix_diagonal, factors, n, d, z0_stride, z1_stride, blocks,
    grow, twice_gap,
    ENERGY: tl.constexpr, SAMPLES: tl.constexpr, CROSS: tl.constexpr, SCALED: tl.constexpr, PULL: tl.constexpr,
    NEED0: tl.constexpr, NEED1: tl.constexpr, DTYPE: tl.constexpr, LIFT: tl.constexpr, BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile of dz0 and of dz1 (N, D), where they are needed; if ENERGY, each holds da, in float32."""
    column_blocks = tl.cdiv(d, BLOCK_D)
    rows = (tl.program_id(0) // column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    features = (tl.program_id(0) % column_blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    step = (1 if z1 is None else 2) * d
    if NEED0:
        _store_gradient(
            dz0, z0, z1, mean, mean + 2 * d, scale, scale + d, largest, matrix_diagonal, factors, rows, features, n, d,
            step, z0_stride, z1_stride, blocks, grow, twice_gap, ENERGY, SAMPLES, CROSS, SCALED, PULL, DTYPE, LIFT,
            BLOCKS,
        )  # fmt: skip
    if NEED1:
        _store_gradient(
            dz1, z1, z0, mean + 2 * d, mean, scale + d, scale, largest + blocks,
            None if matrix_diagonal is None else matrix_diagonal + n, factors + d, rows, features, n, d, step,
            z1_stride, z0_stride, blocks, grow, twice_gap, ENERGY, SAMPLES, CROSS, SCALED, PULL, DTYPE, LIFT, BLOCKS,
        )  # fmt: skip
