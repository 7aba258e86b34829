# SPDX-License-Identifier: Apache-2.0
"""The rows family in Triton: rows of unit length, dot products and cosines of paired rows, and their gradients.

All of it is bound by memory, and computed in float32. A program owns a block of rows and walks along their features.
Offsets of rows are int64.
"""

import triton
import triton.language as tl

from sslkernels.ops.triton_pieces import load_rows, pairs


@triton.jit
def _over_peak(part, peak):
    """Rows over their largest magnitude; 1 or -1 where both are infinite, so that the norm is infinite and not NaN."""
    return tl.where(tl.abs(part) == peak[:, None], tl.where(part < 0, -1.0, 1.0), part / peak[:, None])


@triton.jit(do_not_specialize=["n", "more"])
def unit_rows_kernel(
    z, other, unit, norms, n, more, d, z_stride, other_stride, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """z_i / max(|z_i|, 1e-12) and |z_i| of the N rows of z, and then of the ``more`` rows of other, which may be None.

    3 reads (all but the first from cache) and a write of all rows.
    """
    blocks = tl.cdiv(n, BLOCK_N)
    if other is None:
        _unit_rows(z, unit, norms, tl.program_id(0), n, d, z_stride, BLOCK_N, BLOCK_D)
    else:
        if tl.program_id(0) < blocks:
            _unit_rows(z, unit, norms, tl.program_id(0), n, d, z_stride, BLOCK_N, BLOCK_D)
        else:
            _unit_rows(
                other, unit + tl.cast(n, tl.int64) * d, norms + n, tl.program_id(0) - blocks, more, d, other_stride,
                BLOCK_N, BLOCK_D,
            )  # fmt: skip


@triton.jit
def _unit_rows(z, unit, norms, block, n, d, z_stride, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """Divide a block of rows. z_i / max|z_ik| is squared, so that squares neither overflow nor vanish."""
    rows = block * BLOCK_N + tl.arange(0, BLOCK_N)
    peak = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        part = load_rows(z, rows, first + tl.arange(0, BLOCK_D), n, d, z_stride).to(tl.float32)
        peak = tl.maximum(peak, tl.max(tl.abs(part), 1))
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        part = load_rows(z, rows, first + tl.arange(0, BLOCK_D), n, d, z_stride).to(tl.float32)
        part = _over_peak(part, peak)
        squares += tl.sum(part * part, 1)
    norm = peak * tl.sqrt_rn(squares)
    tl.store(norms + rows, norm, mask=rows < n)
    divisor = tl.where(norm < 1e-12, 1e-12, norm)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        part = load_rows(z, rows, features, n, d, z_stride).to(tl.float32)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        tl.store(pairs(unit, rows, features, d), (part / divisor[:, None]).to(unit.dtype.element_ty), mask=inside)


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
        u = load_rows(unit, rows, features, n, d, d).to(tl.float32)
        g = load_rows(grad, rows, features, n, d, grad_stride).to(tl.float32)
        along += tl.sum(u * g, 1)
    along = tl.where(norm > 1e-12, along, 0.0)
    divisor = tl.where(norm < 1e-12, 1e-12, norm)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        u = load_rows(unit, rows, features, n, d, d).to(tl.float32)
        g = load_rows(grad, rows, features, n, d, grad_stride).to(tl.float32)
        inside = (rows[:, None] < n) & (features[None, :] < d)
        part = (g - u * along[:, None]) / divisor[:, None]
        tl.store(pairs(dz, rows, features, d), part.to(dz.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "m", "shift"])
def row_dot_kernel(x, y, out, n, m, d, x_stride, y_stride, shift, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """<x_i, y_((i + shift) mod M)>, 0 <= shift < M."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    partners = (rows.to(tl.int64) + shift) % m
    total = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        left = load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
        right = load_rows(y, partners, features, m, d, y_stride).to(tl.float32)
        total += tl.sum(left * right, 1)
    tl.store(out + rows, total, mask=rows < n)


@triton.jit(do_not_specialize=["n", "m", "shift", "out_rows"])
def row_dot_backward_kernel(
    x, y, grad, out, n, m, d, x_stride, y_stride, shift, out_rows,
    GIVEN: tl.constexpr, RECEIVED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """GIVEN: grad_i*y_((i + shift) mod M), the gradient of row i. RECEIVED: grad_k*x_k, the gradient of row i as the
    partner of k < N. Both are added for x with itself.
    """
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    partners = (rows.to(tl.int64) + shift) % m
    givers = rows.to(tl.int64) - shift
    givers = tl.where(givers < 0, givers + m, givers)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        if GIVEN:
            weight = tl.load(grad + rows, mask=rows < n, other=0.0)
            total += weight[:, None] * load_rows(y, partners, features, m, d, y_stride).to(tl.float32)
        if RECEIVED:
            weight = tl.load(grad + givers, mask=givers < n, other=0.0)
            total += weight[:, None] * load_rows(x, givers, features, n, d, x_stride).to(tl.float32)
        inside = (rows[:, None] < out_rows) & (features[None, :] < d)
        tl.store(pairs(out, rows, features, d), total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _cosines(x, y, rows, n, d, x_stride, y_stride, eps, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr):
    """<x_i, y_i> / (max(|x_i|, eps)*max(|y_i|, eps)), and |x_i|, |y_i|. One read of both sides.

    A block reads again, as x_i / max|x_ik|, only if the squares of one of its rows may have left the range.
    """
    known = rows < n
    xx = tl.zeros((BLOCK_N,), tl.float32)
    yy, xy = tl.zeros_like(xx), tl.zeros_like(xx)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        a = load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
        b = load_rows(y, rows, features, n, d, y_stride).to(tl.float32)
        xx += tl.sum(a * a, 1)
        yy += tl.sum(b * b, 1)
        xy += tl.sum(a * b, 1)
    unit_x, unit_y = tl.zeros_like(xx) + 1.0, tl.zeros_like(xx) + 1.0
    usual = (xx > 1e-30) & (xx < 1e30) & (yy > 1e-30) & (yy < 1e30)  # false for NaN
    if tl.sum((known & ~usual).to(tl.int32), 0) > 0:
        peak_x, peak_y = tl.zeros_like(xx), tl.zeros_like(xx)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            a = load_rows(x, rows, features, n, d, x_stride).to(tl.float32)
            b = load_rows(y, rows, features, n, d, y_stride).to(tl.float32)
            peak_x = tl.maximum(peak_x, tl.max(tl.abs(a), 1))
            peak_y = tl.maximum(peak_y, tl.max(tl.abs(b), 1))
        unit_x = tl.where(peak_x == 0, 1.0, peak_x)
        unit_y = tl.where(peak_y == 0, 1.0, peak_y)
        xx, yy, xy = tl.zeros_like(xx), tl.zeros_like(yy), tl.zeros_like(xy)
        for first in range(0, d, BLOCK_D):
            features = first + tl.arange(0, BLOCK_D)
            a = _over_peak(load_rows(x, rows, features, n, d, x_stride).to(tl.float32), unit_x)
            b = _over_peak(load_rows(y, rows, features, n, d, y_stride).to(tl.float32), unit_y)
            xx += tl.sum(a * a, 1)
            yy += tl.sum(b * b, 1)
            xy += tl.sum(a * b, 1)
    of_x, of_y = unit_x * tl.sqrt_rn(xx), unit_y * tl.sqrt_rn(yy)
    cosine = xy * (unit_x / tl.where(of_x < eps, eps, of_x)) * (unit_y / tl.where(of_y < eps, eps, of_y))
    return cosine, of_x, of_y


@triton.jit
def _store_gradients(
    x, y, dx, dy, rows, cosine, norm_x, norm_y, g, n, d, x_stride, y_stride, eps, BLOCK_D: tl.constexpr
):  # fmt: skip
    """dx_i = g_i/|x_i|*(v_i - c_i*u_i) and dy_i = g_i/|y_i|*(u_i - c_i*v_i), with u = x/|x| and v = y/|y|.

    A norm below eps counts as eps, and the second term is then absent. ``dx`` or ``dy`` may be None.
    """
    known = rows < n
    along_x, along_y = tl.where(norm_x > eps, cosine, 0.0), tl.where(norm_y > eps, cosine, 0.0)
    # Numbers of unit size are multiplied by one inverse norm at a time: a product of two could leave the range.
    a, b = 1.0 / tl.where(norm_x < eps, eps, norm_x), 1.0 / tl.where(norm_y < eps, eps, norm_y)
    for first in range(0, d, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        inside = known[:, None] & (features[None, :] < d)
        u = load_rows(x, rows, features, n, d, x_stride).to(tl.float32) * a[:, None]
        v = load_rows(y, rows, features, n, d, y_stride).to(tl.float32) * b[:, None]
        if dx is not None:
            part = (g * a)[:, None] * (v - along_x[:, None] * u)
            tl.store(pairs(dx, rows, features, d), part.to(dx.dtype.element_ty), mask=inside)
        if dy is not None:
            part = (g * b)[:, None] * (u - along_y[:, None] * v)
            tl.store(pairs(dy, rows, features, d), part.to(dy.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "eps"])
def row_cosine_kernel(
    x, y, cosines, norms, n, d, x_stride, y_stride, eps, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cosine, norm_x, norm_y = _cosines(x, y, rows, n, d, x_stride, y_stride, eps, BLOCK_N, BLOCK_D)
    tl.store(norms + rows, norm_x, mask=rows < n)
    tl.store(norms + n + rows, norm_y, mask=rows < n)
    tl.store(cosines + rows, cosine, mask=rows < n)


@triton.jit(do_not_specialize=["n", "eps", "offset", "weight", "share"])
def cosine_loss_kernel(
    x, y, losses, dx, dy, n, d, x_stride, y_stride, eps, offset, weight, share,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """share*(offset - weight*c_i), and the gradients of its sum; ``dx`` or ``dy`` may be None."""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    cosine, norm_x, norm_y = _cosines(x, y, rows, n, d, x_stride, y_stride, eps, BLOCK_N, BLOCK_D)
    tl.store(losses + rows, share * (offset - weight * cosine), mask=rows < n)
    if dx is not None or dy is not None:
        g = tl.zeros((BLOCK_N,), tl.float32) - weight * share
        _store_gradients(x, y, dx, dy, rows, cosine, norm_x, norm_y, g, n, d, x_stride, y_stride, eps, BLOCK_D)


@triton.jit(do_not_specialize=["n", "grad_stride", "eps"])
def row_cosine_backward_kernel(
    x, y, cosines, norms, grad, dx, dy, n, d, x_stride, y_stride, grad_stride, eps,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    known = rows < n
    cosine = tl.load(cosines + rows, mask=known, other=0.0)
    norm_x, norm_y = tl.load(norms + rows, mask=known, other=1.0), tl.load(norms + n + rows, mask=known, other=1.0)
    g = tl.load(grad + rows.to(tl.int64) * grad_stride, mask=known, other=0.0)
    _store_gradients(x, y, dx, dy, rows, cosine, norm_x, norm_y, g, n, d, x_stride, y_stride, eps, BLOCK_D)
