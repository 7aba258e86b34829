# SPDX-License-Identifier: Apache-2.0
"""The sigreg family in Triton: sums over samples of e^(i k step p), and their adjoint.

    z = e^(i step p) and z^8 are evaluated; z^2, z^3, z^4 are products
    knots K +- j of a centre K = 8, 16, ... and j <= 4, with z^K = C + iS and z^j = c + is:
        sum cos = sum Cc -+ sum Ss,  sum sin = sum Sc +- sum Cs
    adjoint: dp = sum_k t_k (g_sin_k cos - g_cos_k sin), knot after knot

A program owns a block of slices of a view, and every ``parts``-th block of its samples; sums of programs that share
slices are added afterwards in a fixed order. No atomics, so the same inputs give the same bits.
Angles are reduced to quarter turns here: the library's cosine has a slow path for large arguments that takes local
memory. ``p = p1 + p2`` and ``step / 2 pi = c1 + c2 + c3`` are cut so that p1*c1, p2*c1 and p1*c2 are exact in fp32.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import INF

MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, which is then in the low bits
HIGH_HALF = tl.constexpr(-4096)  # 12 bits of significand
MOST_TURNS = tl.constexpr(4194304.0)  # 2^22, where neighbouring numbers are half a turn apart
EXPONENT = tl.constexpr(0x7F800000)
HALF_PI = tl.constexpr(1.5707963705062866)
HALF_PI_REST = tl.constexpr(-4.371139e-08)


@triton.jit
def _part(x):
    """x less the nearest whole number."""
    return x - ((x + MAGIC) - MAGIC)


@triton.jit
def _turn(p, c1, c2, c3):
    """The fraction of p * (c1 + c2 + c3) turns, as a sum of two numbers.

    Beyond MOST_TURNS float32 cannot tell where on the circle p lies, and the digits of p choose a point.
    """
    limit = MOST_TURNS / c1
    below = (limit * 0.5).to(tl.int32, bitcast=True) & EXPONENT
    digits = ((p.to(tl.int32, bitcast=True) & ~EXPONENT) | below).to(tl.float32, bitcast=True)
    p = tl.where((tl.abs(p) >= limit) & (tl.abs(p) < INF), digits, p)
    p1 = (p.to(tl.int32, bitcast=True) & HIGH_HALF).to(tl.float32, bitcast=True)
    p2 = p - p1
    first = _part(p1 * c1)
    rest = (_part(p2 * c1) + _part(p1 * c2)) + (p2 * c2 + p * c3)
    high = first + rest
    added = high - first
    return high, (first - (high - added)) + (rest - added)


@triton.jit
def _point(high, low, TIMES: tl.constexpr):
    """(cos, sin) of the angle of TIMES * (high + low) turns, TIMES a power of two."""
    quarters = high * (4 * TIMES)
    shifted = quarters + MAGIC
    y = (quarters - (shifted - MAGIC)) + low * (4 * TIMES)
    x = y * HALF_PI + y * HALF_PI_REST
    u = x * x
    sine = x + x * u * ((-0.0001958537 * u + 0.0083327368) * u - 0.16666664)
    cosine = (1.0 - 0.5 * u) + u * u * ((2.454542e-05 * u - 0.001388829) * u + 0.041666664)
    quarter = shifted.to(tl.int32, bitcast=True)
    odd = (quarter & 1) != 0
    c = tl.where(odd, sine, cosine)
    s = tl.where(odd, cosine, sine)
    c = tl.where(((quarter + 1) & 2) != 0, -c, c)
    s = tl.where((quarter & 2) != 0, -s, s)
    return c, s


@triton.jit
def _times(ac, as_, bc, bs):
    return ac * bc - as_ * bs, as_ * bc + ac * bs


@triton.jit
def _squared(c, s):
    return 1.0 - 2 * s * s, 2 * s * c


@triton.jit
def _add(out, k, cosine, sine, columns, slices, knots, known):
    """Add to the sums of knot k in memory, of which only the first ``known`` slices were written before."""
    knot = tl.cast(k, tl.int64)
    at = out + knot * slices + columns
    inside = columns < tl.where(knot < knots, slices, 0)
    old_c = tl.load(at, mask=inside & (columns < known), other=0.0)
    old_s = tl.load(at + tl.cast(knots, tl.int64) * slices, mask=inside & (columns < known), other=0.0)
    tl.store(at, old_c + cosine, mask=inside)
    tl.store(at + tl.cast(knots, tl.int64) * slices, old_s + sine, mask=inside)


@triton.jit
def _add_pair(out, centre, j, bc, bs, c, s, columns, slices, knots, known, BELOW: tl.constexpr):
    """`_add` for knots centre + j and, where BELOW, centre - j."""
    cc, ss = tl.sum(bc * c, 0), tl.sum(bs * s, 0)
    sc, cs = tl.sum(bs * c, 0), tl.sum(bc * s, 0)
    _add(out, centre + j, cc - ss, sc + cs, columns, slices, knots, known)
    if BELOW:
        _add(out, centre - j, cc + ss, sc - cs, columns, slices, knots, known)


@triton.jit(do_not_specialize=["n", "knots", "parts", "c1", "c2", "c3"])
def sums_kernel(p, out, n, slices, knots, parts, c1, c2, c3, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    """Sums (views, parts, 2, knots, slices). The caller writes those of knot 0, which are n and 0."""
    across = tl.cdiv(slices, BLOCK_S)
    columns = tl.program_id(0) % across * BLOCK_S + tl.arange(0, BLOCK_S)
    part = tl.program_id(0) // across % parts
    view = (tl.program_id(0) // (across * parts)).to(tl.int64)
    p += view * n * slices
    out += (view * parts + part) * 2 * knots * slices
    for block in range(part, tl.cdiv(n, BLOCK_N), parts):
        known = tl.where(block == part, 0, slices)
        rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
        present = (rows[:, None] < n) & (columns[None, :] < slices)
        at = p + (rows.to(tl.int64) * slices)[:, None] + columns[None, :]
        high, low = _turn(tl.load(at, mask=present, other=0.0), c1, c2, c3)
        z1c, z1s = _point(high, low, 1)
        z1c = tl.where(present, z1c, 0.0)  # absent samples add nothing: their products have a factor of zero
        z1s = tl.where(present, z1s, 0.0)
        one = tl.where(present, 1.0, 0.0)
        z2c, z2s = one - 2 * z1s * z1s, 2 * z1s * z1c
        z3c, z3s = _times(z2c, z2s, z1c, z1s)
        z4c, z4s = one - 2 * z2s * z2s, 2 * z2s * z2c
        _add(out, 1, tl.sum(z1c, 0), tl.sum(z1s, 0), columns, slices, knots, known)
        _add(out, 2, tl.sum(z2c, 0), tl.sum(z2s, 0), columns, slices, knots, known)
        _add(out, 3, tl.sum(z3c, 0), tl.sum(z3s, 0), columns, slices, knots, known)
        _add(out, 4, tl.sum(z4c, 0), tl.sum(z4s, 0), columns, slices, knots, known)
        z8c, z8s = _point(high, low, 8)
        z8c = tl.where(present, z8c, 0.0)
        z8s = tl.where(present, z8s, 0.0)
        bc, bs = z8c, z8s
        for centre in range(8, knots + 3, 8):
            _add(out, centre, tl.sum(bc, 0), tl.sum(bs, 0), columns, slices, knots, known)
            _add_pair(out, centre, 1, bc, bs, z1c, z1s, columns, slices, knots, known, True)
            _add_pair(out, centre, 2, bc, bs, z2c, z2s, columns, slices, knots, known, True)
            _add_pair(out, centre, 3, bc, bs, z3c, z3s, columns, slices, knots, known, True)
            _add_pair(out, centre, 4, bc, bs, z4c, z4s, columns, slices, knots, known, False)
            bc, bs = _times(bc, bs, z8c, z8s)
        tl.debug_barrier()  # the next block reads sums that other threads wrote


@triton.jit
def _pull(grad, k, c, s, step, columns, slices, knots):
    """t_k (g_sin cos - g_cos sin) of one knot."""
    knot = tl.cast(k, tl.int64)
    at = grad + knot * slices + columns
    inside = columns < tl.where(knot < knots, slices, 0)
    t = knot.to(tl.float32) * step
    of_cosine = tl.load(at, mask=inside, other=0.0) * t
    of_sine = tl.load(at + tl.cast(knots, tl.int64) * slices, mask=inside, other=0.0) * t
    return of_sine[None, :] * c - of_cosine[None, :] * s


@triton.jit
def _pull_pair(grad, centre, j, bc, bs, c, s, step, columns, slices, knots, BELOW: tl.constexpr):
    """`_pull` of knots centre + j and, where BELOW, centre - j."""
    cc, ss, sc, cs = bc * c, bs * s, bs * c, bc * s
    pull = _pull(grad, centre + j, cc - ss, sc + cs, step, columns, slices, knots)
    if BELOW:
        pull += _pull(grad, centre - j, cc + ss, sc - cs, step, columns, slices, knots)
    return pull


@triton.jit(do_not_specialize=["n", "knots", "step", "c1", "c2", "c3"])
def adjoint_kernel(p, grad, dp, n, slices, knots, step, c1, c2, c3, BLOCK_N: tl.constexpr, BLOCK_S: tl.constexpr):
    """dp (views, n, slices) of grad (views, 2, knots, slices)."""
    across, along = tl.cdiv(slices, BLOCK_S), tl.cdiv(n, BLOCK_N)
    columns = tl.program_id(0) % across * BLOCK_S + tl.arange(0, BLOCK_S)
    rows = tl.program_id(0) // across % along * BLOCK_N + tl.arange(0, BLOCK_N)
    view = (tl.program_id(0) // (across * along)).to(tl.int64)
    grad += view * 2 * knots * slices
    present = (rows[:, None] < n) & (columns[None, :] < slices)
    at = view * n * slices + (rows.to(tl.int64) * slices)[:, None] + columns[None, :]
    high, low = _turn(tl.load(p + at, mask=present, other=0.0), c1, c2, c3)
    z1c, z1s = _point(high, low, 1)
    z2c, z2s = _squared(z1c, z1s)
    z3c, z3s = _times(z2c, z2s, z1c, z1s)
    z4c, z4s = _squared(z2c, z2s)
    pull = _pull(grad, 1, z1c, z1s, step, columns, slices, knots)
    pull += _pull(grad, 2, z2c, z2s, step, columns, slices, knots)
    pull += _pull(grad, 3, z3c, z3s, step, columns, slices, knots)
    pull += _pull(grad, 4, z4c, z4s, step, columns, slices, knots)
    z8c, z8s = _point(high, low, 8)
    bc, bs = z8c, z8s
    for centre in range(8, knots + 3, 8):
        pull += _pull(grad, centre, bc, bs, step, columns, slices, knots)
        pull += _pull_pair(grad, centre, 1, bc, bs, z1c, z1s, step, columns, slices, knots, True)
        pull += _pull_pair(grad, centre, 2, bc, bs, z2c, z2s, step, columns, slices, knots, True)
        pull += _pull_pair(grad, centre, 3, bc, bs, z3c, z3s, step, columns, slices, knots, True)
        pull += _pull_pair(grad, centre, 4, bc, bs, z4c, z4s, step, columns, slices, knots, False)
        bc, bs = _times(bc, bs, z8c, z8s)
    tl.store(dp + at, pull, mask=present)
