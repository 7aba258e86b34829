// SPDX-License-Identifier: Apache-2.0
// Makes unit rows and their gradient, dot products of rows, and scaled rows, which are the gradient of the dot
// products.
//   u = z / max(|z|, eps)        dz = (g - u <u, g>) / |z|, or g / eps where |z| <= eps
// Sums run in fp64 lanes for fp64 rows and in fp32 lanes otherwise. Cost: one read and one write of N*D numbers.
#pragma once
#include "../dot.h"
#include "../dtypes.h"
#include "../integers.h"
#include "../row_access.h"
#include "../threads.h"
#include <math.h>

namespace {

constexpr double kEps = 1e-12;

template <class In, class Out, class Acc>
void unit_rows_forward_typed(Rows z, int64_t d, void *unit, void *norms, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(z.count *d, threads))
    for (int64_t i = 0; i < z.count; ++i) {
        const In *in = row<In>(z, i);
        Out *out = static_cast<Out *>(unit) + i * d;
        Acc norm = Acc(sqrt(dot<Acc>(in, in, d)));
        if (!(norm > Acc(1e-15) && norm < Acc(1e15))) { // squares may have left the range: read again, scaled
            Acc peak = 0;
            for (int64_t k = 0; k < d; ++k) {
                const Acc size = Acc(fabs(widen<Acc>(in[k])));
                peak = size > peak || size != size ? size : peak;
            }
            Acc squares = 0;
            const bool scalable = peak > 0 && peak - peak == 0; // otherwise the norm is the peak: 0, infinite or NaN
            for (int64_t k = 0; scalable && k < d; ++k)
                squares += (widen<Acc>(in[k]) / peak) * (widen<Acc>(in[k]) / peak);
            norm = scalable ? peak * Acc(sqrt(squares)) : peak;
        }
        static_cast<Acc *>(norms)[i] = norm;
        const Acc divisor = norm < Acc(kEps) ? Acc(kEps) : norm;
        for (int64_t k = 0; k < d; ++k) out[k] = narrow<Out>(widen<Acc>(in[k]) / divisor);
    }
}

template <class In, class Out, class Acc>
void unit_rows_backward_typed(const void *unit, const void *norms, Rows grad, int64_t d, void *dz, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(grad.count *d, threads))
    for (int64_t i = 0; i < grad.count; ++i) {
        const In *u = static_cast<const In *>(unit) + i * d;
        const In *g = row<In>(grad, i);
        Out *out = static_cast<Out *>(dz) + i * d;
        const Acc norm = static_cast<const Acc *>(norms)[i];
        const Acc along = norm > Acc(kEps) ? dot<Acc>(u, g, d) : Acc(0);
        const Acc divisor = norm < Acc(kEps) ? Acc(kEps) : norm;
        for (int64_t k = 0; k < d; ++k)
            out[k] = narrow<Out>(Acc((widen<Acc>(g[k]) - widen<Acc>(u[k]) * along) / divisor));
    }
}

template <class In, class Acc> void row_dot_typed(Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(x.count *d, threads))
    for (int64_t i = 0; i < x.count; ++i)
        static_cast<Acc *>(out)[i] = dot<Acc>(row<In>(x, i), row<In>(y, wrap(i + shift, y.count)), d);
}

template <class In, class Acc>
void scale_rows_typed(Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift, int64_t n,
                      void *out, int threads) {
    const Acc *g = static_cast<const Acc *>(grad);
#pragma omp parallel for schedule(static) num_threads(threads_for(n *d, threads))
    for (int64_t i = 0; i < n; ++i) {
        In *o = static_cast<In *>(out) + i * d;
        const In *a = row<In>(y, wrap(i + shift, y.count));
        const Acc ga = g[i];
        if (also) {
            const int64_t j = wrap(i + also_shift, n);
            const In *b = row<In>(y, wrap(i + also_shift, y.count));
            const Acc gb = g[j];
            for (int64_t k = 0; k < d; ++k) o[k] = narrow<In>(Acc(ga * widen<Acc>(a[k]) + gb * widen<Acc>(b[k])));
        } else {
            for (int64_t k = 0; k < d; ++k) o[k] = narrow<In>(Acc(ga * widen<Acc>(a[k])));
        }
    }
}

} // namespace
