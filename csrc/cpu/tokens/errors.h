// SPDX-License-Identifier: Apache-2.0
// Computes the errors of rows that have a weight, squared or smooth L1. The target is standardised as it is read.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../threads.h"
#include "../vector.h"
#include "around.h"
#include "kernels.h"
#include <math.h>

namespace {

using sslkernels::TokenErrors;

// Sums f(k) over k < d, in vector lanes.
template <class Acc, class F> inline Acc sum_of(int64_t d, F f) {
    constexpr int L = 4 * kLanes<Acc>;
    Acc lanes[L] = {}, total = 0;
    int64_t k = 0;
    for (; k + L <= d; k += L)
        for (int l = 0; l < L; ++l) lanes[l] += f(k + l);
    for (; k < d; ++k) total += f(k);
    for (int width = L / 2; width > 0; width /= 2)
        for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return total + lanes[0];
}

template <class Acc, class T> void moments_of(const T *t, int64_t d, int norm, Acc *mean, Acc *inverse) {
    *mean = 0, *inverse = 1;
    if (norm == sslkernels::kPlain) return;
    const double middle = sum_of<double>(d, [&](int64_t k) { return widen<double>(t[k]); }) / double(d);
    const double left = sum_of<double>(d, [&](int64_t k) { return widen<double>(t[k]) - middle; });
    const double squares = sum_of<double>(d,
                                          [&](int64_t k) {
                                              const double a = widen<double>(t[k]) - middle;
                                              return a * a;
                                          }) -
                           left * left / double(d);
    const bool mae = norm == sslkernels::kMae;
    *mean = Acc(middle);
    *inverse = Acc(1 / sqrt(squares / double(mae ? d - 1 : d) + (mae ? 1e-6 : 1e-5)));
}

template <class Pred, class Target> void errors_typed(const TokenErrors &e, void *out_, void *moments_) {
    using Acc = typename Accumulator<Pred>::type;
    Acc *out = static_cast<Acc *>(out_), *moments = static_cast<Acc *>(moments_);
    const Acc *weights = static_cast<const Acc *>(e.weights), beta = Acc(e.beta);
    const Acc share = Acc(1) / Acc(e.d); // every error is divided, because a sum of large ones may leave the range
#pragma omp parallel for schedule(static) num_threads(threads_for(e.rows *e.d, e.threads))
    for (int64_t r = 0; r < e.rows; ++r) {
        Acc &mean = moments[2 * r], &inverse = moments[2 * r + 1];
        out[r] = 0, mean = 0, inverse = 1;
        if (weights[r] == 0) continue;
        const Pred *p = static_cast<const Pred *>(e.pred) + r * e.d;
        const Target *t = static_cast<const Target *>(e.target) + r * e.d;
        moments_of<Acc>(t, e.d, e.norm, &mean, &inverse);
        const Acc m = mean, s = inverse;
        out[r] = sum_of<Acc>(e.d, [&](int64_t k) {
            const Acc a = widen<Acc>(p[k]) - (widen<Acc>(t[k]) - m) * s, size = a < 0 ? -a : a;
            if (beta == 0) return a * a * share;
            return (size < beta ? a * a * (Acc(0.5) / beta) : size - Acc(0.5) * beta) * share;
        });
    }
}

template <class Pred, class Target>
void errors_backward_typed(const TokenErrors &e, const void *moments_, void *dpred_) {
    using Acc = typename Accumulator<Pred>::type;
    const Acc *scales = static_cast<const Acc *>(e.weights), *moments = static_cast<const Acc *>(moments_);
    const Acc beta = Acc(e.beta);
    const bool around = fresh(dpred_, e.rows * e.d * int64_t(sizeof(Pred)));
    constexpr int64_t kBlock = 512;
#pragma omp parallel num_threads(threads_for(e.rows *e.d, e.threads))
    {
        alignas(64) Pred block[kBlock];
#pragma omp for schedule(static)
        for (int64_t r = 0; r < e.rows; ++r) {
            const Pred *p = static_cast<const Pred *>(e.pred) + r * e.d;
            const Target *t = static_cast<const Target *>(e.target) + r * e.d;
            Pred *out = static_cast<Pred *>(dpred_) + r * e.d;
            const Acc scale = scales[r], m = moments[2 * r], s = moments[2 * r + 1];
            for (int64_t f = 0; f < e.d; f += kBlock) {
                const int64_t width = least(kBlock, e.d - f);
                if (scale == 0)
                    memset(block, 0, width * sizeof(Pred));
                else
                    for (int64_t k = 0; k < width; ++k) {
                        const Acc a = widen<Acc>(p[f + k]) - (widen<Acc>(t[f + k]) - m) * s;
                        Acc slope = 2 * a;
                        if (beta != 0) {
                            slope = a / beta;
                            slope = slope < -1 ? Acc(-1) : slope > 1 ? Acc(1) : slope;
                        }
                        block[k] = narrow<Pred>(Acc(slope * scale));
                    }
                put(out + f, block, width * sizeof(Pred), around);
            }
        }
        done_around();
    }
}

} // namespace
