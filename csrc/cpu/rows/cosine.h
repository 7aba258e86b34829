// SPDX-License-Identifier: Apache-2.0
// Computes cosines of matching rows and their gradient.
//   c = <x, y> / (max(|x|, eps) max(|y|, eps))
//   dx = g / max(|x|, eps) (v - c u), where u and v are x and y over those norms; c u is left out where |x| <= eps
// dy has the same form. Sums run in fp64 lanes for fp64 rows and in fp32 lanes otherwise.
// The loss is the sum of share (offset - weight c). It comes with its gradient, whose g is -weight share for every row.
// Cost: cosines read 2*N*D numbers. Their gradient reads 2*N*D numbers and writes N*D for each side that is wanted. The
// loss with its gradient reads them once.
#pragma once
#include "../dtypes.h"
#include "../lanes.h"
#include "../row_access.h"
#include "../threads.h"
#include "../vector.h"
#include "kernels.h"
#include <math.h>

namespace {

using sslkernels::RowCosine;
using sslkernels::RowCosineGrad;
using sslkernels::RowCosineLoss;

template <class Acc> struct Products { // dot products of two rows
    Acc xx, yy, xy;
};

template <class Acc, class In> inline Products<Acc> products(const In *x, const In *y, int64_t d) {
    constexpr int L = 4 * kLanes<Acc>;
    Acc xx[L] = {}, yy[L] = {}, xy[L] = {};
    int64_t k = 0;
    for (; k + L <= d; k += L)
        for (int l = 0; l < L; ++l) {
            const Acc a = widen<Acc>(x[k + l]), b = widen<Acc>(y[k + l]);
            xx[l] += a * a, yy[l] += b * b, xy[l] += a * b;
        }
    Products<Acc> rest{0, 0, 0};
    for (; k < d; ++k) {
        const Acc a = widen<Acc>(x[k]), b = widen<Acc>(y[k]);
        rest.xx += a * a, rest.yy += b * b, rest.xy += a * b;
    }
    return {rest.xx + sum_by_halves<L>(xx), rest.yy + sum_by_halves<L>(yy), rest.xy + sum_by_halves<L>(xy)};
}

// Returns the largest magnitude, 1 if that is 0, or NaN if there is one.
template <class Acc, class In> inline Acc peak_of(const In *x, int64_t d) {
    Acc peak = 0;
    for (int64_t k = 0; k < d; ++k) {
        const Acc size = Acc(fabs(widen<Acc>(x[k])));
        peak = size > peak || size != size ? size : peak;
    }
    return peak == 0 ? Acc(1) : peak;
}

// Returns the norm of a row, given its peak and the sum of squares of x / peak. One infinite entry makes it infinite.
template <class Acc> inline Acc rescaled(Acc peak, Acc squares) {
    return peak - peak == 0 ? peak * Acc(sqrt(squares)) : peak;
}

template <class Acc> struct Cosine { // and the norms, not clamped
    Acc cosine, of_x, of_y;
};

template <class Acc, class In> inline Cosine<Acc> cosine_of(const In *x, const In *y, int64_t d, Acc eps) {
    auto usual = [](Acc norm) { return norm > Acc(1e-15) && norm < Acc(1e15); };
    Products<Acc> sums = products<Acc>(x, y, d);
    Acc of_x = Acc(sqrt(sums.xx)), of_y = Acc(sqrt(sums.yy)), unit_x = 1, unit_y = 1;
    if (!usual(of_x) || !usual(of_y)) { // squares may have left the range: read again, scaled
        unit_x = peak_of<Acc>(x, d), unit_y = peak_of<Acc>(y, d);
        sums = {0, 0, 0};
        for (int64_t k = 0; k < d; ++k) {
            const Acc a = widen<Acc>(x[k]) / unit_x, b = widen<Acc>(y[k]) / unit_y;
            sums.xx += a * a, sums.yy += b * b, sums.xy += a * b;
        }
        of_x = rescaled(unit_x, sums.xx), of_y = rescaled(unit_y, sums.yy);
    }
    return {sums.xy * (unit_x / (of_x < eps ? eps : of_x)) * (unit_y / (of_y < eps ? eps : of_y)), of_x, of_y};
}

// Writes g times the gradient of the cosine; dx or dy may be null.
template <class Acc, class In, class Out>
inline void cosine_gradient(const In *x, const In *y, int64_t d, Acc eps, Cosine<Acc> of, Acc g, Out *dx, Out *dy) {
    // Each term is of unit size, times one factor. A product of two inverse norms could leave the range.
    const Acc a = 1 / (of.of_x < eps ? eps : of.of_x), b = 1 / (of.of_y < eps ? eps : of.of_y);
    const Acc along_x = of.of_x > eps ? of.cosine : Acc(0), along_y = of.of_y > eps ? of.cosine : Acc(0);
    if (dx)
        for (int64_t k = 0; k < d; ++k)
            dx[k] = narrow<Out>(Acc(g * a * (b * widen<Acc>(y[k]) - along_x * (a * widen<Acc>(x[k])))));
    if (dy)
        for (int64_t k = 0; k < d; ++k)
            dy[k] = narrow<Out>(Acc(g * b * (a * widen<Acc>(x[k]) - along_y * (b * widen<Acc>(y[k])))));
}

template <class In> void row_cosine_forward_typed(const RowCosine &p, void *cosines_, void *norms_) {
    using Acc = typename Accumulator<In>::type;
    Acc *cosines = static_cast<Acc *>(cosines_), *norms = static_cast<Acc *>(norms_);
    const int64_t n = p.x.count, d = p.d;
#pragma omp parallel for schedule(static) num_threads(threads_for(2 * n * d, p.threads))
    for (int64_t i = 0; i < n; ++i) {
        const Cosine<Acc> of = cosine_of(row<In>(p.x, i), row<In>(p.y, i), d, Acc(p.eps));
        cosines[i] = of.cosine, norms[i] = of.of_x, norms[n + i] = of.of_y;
    }
}

template <class In> void row_cosine_backward_typed(const RowCosine &p, const RowCosineGrad &of) {
    using Acc = typename Accumulator<In>::type;
    const Acc *cosines = static_cast<const Acc *>(of.cosines), *norms = static_cast<const Acc *>(of.norms);
    const Acc *grad = static_cast<const Acc *>(of.grad);
    In *dx = static_cast<In *>(of.dx), *dy = static_cast<In *>(of.dy);
    const int64_t n = p.x.count, d = p.d;
#pragma omp parallel for schedule(static) num_threads(threads_for(2 * n * d, p.threads))
    for (int64_t i = 0; i < n; ++i)
        cosine_gradient(row<In>(p.x, i), row<In>(p.y, i), d, Acc(p.eps), {cosines[i], norms[i], norms[n + i]},
                        grad[i * of.grad_stride], dx ? dx + i * d : dx, dy ? dy + i * d : dy);
}

template <class In> void row_cosine_loss_typed(const RowCosine &p, const RowCosineLoss &loss) {
    using Acc = typename Accumulator<In>::type;
    Acc *dx = static_cast<Acc *>(loss.dx), *dy = static_cast<Acc *>(loss.dy);
    const int64_t n = p.x.count, d = p.d;
    const Acc offset = Acc(loss.offset), weight = Acc(loss.weight), g = Acc(-loss.weight * loss.share);
    const double total = sum_in_blocks(n, threads_for(2 * n * d, p.threads), [&](int64_t i, int64_t end) {
        double sum = 0;
        for (; i < end; ++i) {
            const In *x = row<In>(p.x, i), *y = row<In>(p.y, i);
            const Cosine<Acc> of = cosine_of(x, y, d, Acc(p.eps));
            if (dx || dy) cosine_gradient(x, y, d, Acc(p.eps), of, g, dx ? dx + i * d : dx, dy ? dy + i * d : dy);
            sum += double(offset - weight * of.cosine);
        }
        return sum;
    });
    *static_cast<Acc *>(loss.value) = Acc(total * loss.share);
}

} // namespace
