// SPDX-License-Identifier: Apache-2.0
// Computes the weighted mean of the errors of tokens, squared or smooth L1, and its gradient, in one pass over the
// tokens that have a weight. The target is standardised as it is read.
//   value = sum_r share_r e_r,   share = w / max(sum w, 1),   dpred_r = grad share_r de_r/dpred_r
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../lanes.h"
#include "../threads.h"
#include "../vector.h"
#include "around.h"
#include "kernels.h"
#include <math.h>

namespace {

using sslkernels::TokenErrors;

// Sums terms in vector lanes.
template <class Acc> struct Sum {
    static constexpr int L = 4 * kLanes<Acc>;
    Acc lanes[L] = {}, rest = 0;
    // Adds f(k) for k from `from` to `to`. All pieces but the last must have a multiple of L terms.
    template <class F> void add(int64_t from, int64_t to, F f) {
        Acc here[L]; // the compiler keeps them in registers
        for (int l = 0; l < L; ++l) here[l] = lanes[l];
        int64_t k = from;
        for (; k + L <= to; k += L)
            for (int l = 0; l < L; ++l) here[l] += f(k + l);
        for (; k < to; ++k) rest += f(k);
        for (int l = 0; l < L; ++l) lanes[l] = here[l];
    }
    Acc total() const { return rest + sum_by_halves<L>(lanes); }
};

template <class Acc> struct Moments {
    Acc mean, inverse; // of the deviation
};

template <class Acc, class T> Moments<Acc> moments_of(const T *t, int64_t d, int norm) {
    if (norm == sslkernels::kPlain) return {0, 1};
    // In fp64, because squares of large numbers overflow fp32.
    Sum<double> sum;
    sum.add(0, d, [&](int64_t k) { return widen<double>(t[k]); });
    const double middle = sum.total() / double(d);
    constexpr int L = Sum<double>::L;
    Sum<double> left, squares;
    int64_t k = 0;
    for (; k + L <= d; k += L)
        for (int l = 0; l < L; ++l) {
            const double away = widen<double>(t[k + l]) - middle;
            left.lanes[l] += away, squares.lanes[l] += away * away;
        }
    for (; k < d; ++k) {
        const double away = widen<double>(t[k]) - middle;
        left.rest += away, squares.rest += away * away;
    }
    const double off = left.total();
    const bool mae = norm == sslkernels::kMae;
    const double variance = (squares.total() - off * off / double(d)) / double(mae ? d - 1 : d);
    return {Acc(middle), Acc(1 / sqrt(variance + (mae ? 1e-6 : 1e-5)))};
}

// Returns the error of a row, and writes its slopes times `scale` to `out` if that is not null.
template <bool kSquares, class Acc, class Pred, class Target>
Acc error_of(const Pred *p, const Target *t, int64_t d, Moments<Acc> of, Acc beta, Acc scale, Pred *out, bool around) {
    constexpr int64_t kBlock = 512;
    alignas(64) Pred block[kBlock];
    const Acc share = Acc(1) / Acc(d); // every error is divided, because a sum of large ones may leave the range
    const Acc half = Acc(0.5) / beta;
    auto difference = [&](int64_t k) { return widen<Acc>(p[k]) - (widen<Acc>(t[k]) - of.mean) * of.inverse; };
    auto error = [&](Acc a) {
        if (kSquares) return a * a * share;
        const Acc size = a < 0 ? -a : a;
        return (size < beta ? a * a * half : size - Acc(0.5) * beta) * share;
    };
    Sum<Acc> sum;
    if (!out) {
        sum.add(0, d, [&](int64_t k) { return error(difference(k)); });
        return sum.total();
    }
    for (int64_t first = 0; first < d; first += kBlock) {
        const int64_t end = least(first + kBlock, d);
        sum.add(first, end, [&](int64_t k) {
            const Acc a = difference(k);
            Acc slope = 2 * a;
            if (!kSquares) {
                slope = a / beta;
                slope = slope < -1 ? Acc(-1) : slope > 1 ? Acc(1) : slope;
            }
            block[k - first] = narrow<Pred>(Acc(slope * scale));
            return error(a);
        });
        put(out + first, block, (end - first) * sizeof(Pred), around);
    }
    return sum.total();
}

template <class Pred, class Target> void masked_error_typed(const TokenErrors &e, void *value, void *dpred_) {
    using Acc = typename Accumulator<Pred>::type;
    const Acc *weights = static_cast<const Acc *>(e.weights), beta = Acc(e.beta);
    Pred *dpred = static_cast<Pred *>(dpred_);
    const int64_t rows = e.samples * e.tokens, d = e.pred.d;
    double total = 0;
    for (int64_t r = 0; r < rows; ++r) total += weights[r];
    if (total < 1) total = 1;
    const bool around = dpred && fresh(dpred, rows * d * int64_t(sizeof(Pred)));
    auto row_error = [&](int64_t r) {
        const int64_t b = r / e.tokens, k = r % e.tokens;
        Pred *out = dpred ? dpred + r * d : nullptr;
        // The weights are divided first: the sum of large errors may overflow where their mean does not.
        const Acc share = weights[r] / Acc(total), scale = Acc(e.grad) * share / Acc(d);
        if (out && (weights[r] == 0 || scale == 0)) {
            put_zeros(out, d * int64_t(sizeof(Pred)), around);
            out = nullptr;
        }
        if (weights[r] == 0) return 0.0;
        const Pred *p = static_cast<const Pred *>(e.pred.data) + b * e.pred.sample_stride + k * e.pred.row_stride;
        const Target *t =
            static_cast<const Target *>(e.target.data) + b * e.target.sample_stride + k * e.target.row_stride;
        const Moments<Acc> of = moments_of<Acc>(t, d, e.norm);
        const Acc error = beta == 0 ? error_of<true>(p, t, d, of, beta, scale, out, around)
                                    : error_of<false>(p, t, d, of, beta, scale, out, around);
        return double(error) * double(share);
    };
    *static_cast<Acc *>(value) = Acc(sum_in_blocks(rows, threads_for(rows * d, e.threads), [&](int64_t r, int64_t end) {
        double sum = 0;
        for (; r < end; ++r) sum += row_error(r);
        done_around();
        return sum;
    }));
}

} // namespace
