// SPDX-License-Identifier: Apache-2.0
// Prepares rows for products whose order is that of the metric.
//   dot         <x, y>                as they are
//   cosine      <x/|x|, y/|y|>        unit rows, in the dtype of the rows
//   euclidean   <x, y> - |y|^2 / 2    largest where |x - y| is smallest. Rows of fp32 and fp64 are moved by their
//                                     centre, which changes no distance, and keeps digits that squares far from zero
//                                     would lose.
#pragma once
#include "../lanes.h"
#include "../rows/unit.h"
#include "../tiles.h"
#include "kernels.h"

namespace {

using sslkernels::Search;

// Adds up term(k) over a row, in lanes, because one sum would wait for each of its additions.
template <class Acc, class F> Acc sum_over(int64_t d, F term) {
    constexpr int L = 4 * kLanes<Acc>;
    Acc lanes[L] = {};
    int64_t k = 0;
    for (; k + L <= d; k += L)
        for (int l = 0; l < L; ++l) lanes[l] += term(k + l);
    for (int l = 0; k < d; ++k, ++l) lanes[l] += term(k);
    return sum_by_halves<L>(lanes);
}

template <class In, class Acc> Acc distance(const In *x, const In *y, int64_t d) {
    return Acc(sqrt(sum_over<Acc>(d, [=](int64_t k) {
        const Acc apart = widen<Acc>(x[k]) - widen<Acc>(y[k]);
        return apart * apart;
    })));
}

constexpr int64_t kCentreRows = 256;

// Copies one of kCentreRows rows, the one nearest to their mean, so that rows on a grid, such as pixels, stay on it.
// One thread sums, in one order. Numbers whose squares may leave the range count as zero.
template <class Acc> void find_centre(const Rows &rows, int64_t d, Acc *centre, Acc *mean) {
    const int64_t step = rows.count / kCentreRows + 1, count = (rows.count + step - 1) / step;
    auto usable = [](Acc x) { return fabs(x) < (sizeof(Acc) == 4 ? 0x1p60 : 0x1p500) ? x : Acc(0); };
    for (int64_t k = 0; k < d; ++k) centre[k] = mean[k] = 0;
    for (int64_t i = 0; i < rows.count; i += step)
        for (int64_t k = 0; k < d; ++k) mean[k] += usable(row<Acc>(rows, i)[k]) * (1 / Acc(count));
    Acc least = INFINITY;
    for (int64_t i = 0; i < rows.count; i += step) {
        const Acc far = sum_over<Acc>(d, [&](int64_t k) {
            const Acc apart = usable(row<Acc>(rows, i)[k]) - mean[k];
            return apart * apart;
        });
        if (!(far < least)) continue;
        least = far;
        for (int64_t k = 0; k < d; ++k) centre[k] = usable(row<Acc>(rows, i)[k]);
    }
}

// The rows of a block as they are multiplied: those of the matrix, or copies.
template <class P, class In> struct Prepared {
    using Acc = typename P::Acc;
    static constexpr bool kCentres = P::kPack == 1 && sizeof(In) == sizeof(Acc);

    int metric;
    int64_t d;
    const Acc *centre; // (d,)
    In *copies;        // (kBlock, d)
    Acc *norms;        // (kBlock,)

    static int64_t bytes(int64_t d) { return round_up(kBlock * d * int64_t(sizeof(In)), 64) + kBlock * sizeof(Acc); }
    void use(char *memory) {
        copies = reinterpret_cast<In *>(memory);
        norms = reinterpret_cast<Acc *>(memory + round_up(kBlock * d * int64_t(sizeof(In)), 64));
    }
    Rows rows(const Rows &all, int64_t first, int64_t count) const {
        const Rows some{row<In>(all, first), all.stride, count};
        if (metric == sslkernels::kCosine) {
            unit_rows_forward_typed<In, In, Acc>(some, d, copies, norms, 1);
            return {copies, d, count};
        }
        if constexpr (kCentres)
            if (metric == sslkernels::kEuclidean) {
                for (int64_t i = 0; i < count; ++i)
                    for (int64_t k = 0; k < d; ++k) copies[i * d + k] = row<In>(some, i)[k] - centre[k];
                return {copies, d, count};
            }
        return some;
    }
};

} // namespace
