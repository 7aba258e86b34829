// SPDX-License-Identifier: Apache-2.0
// Computes the mean of (z - centre)^2 over all views, and adds its gradient to one that is there. The centre is the
// mean of a sample's first views.
//
//   d/dz = 2 (z - centre) / count, less the mean over the first views of the others' sum, for the first views
//
// Positions of a view are taken a block at a time, so that each view comes from memory once. Squares are added in fp64,
// block by block, so that the bits are the same at any number of threads.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../memory.h"
#include "../threads.h"
#include "kernels.h"

namespace {

template <class Z> bool distance_typed(const sslkernels::Centred &x, double scale, void *dz, double *value) {
    using Acc = typename Accumulator<Z>::type;
    constexpr int64_t kBlock = 256;
    const int64_t blocks = (x.positions + kBlock - 1) / kBlock;
    const double share = 1.0 / (double(x.views) * double(x.positions));
    const Acc slope = Acc(2 * share * scale), each = Acc(1) / Acc(x.centred);
    Memory memory(blocks * int64_t(sizeof(double)));
    if (!memory.data) return false;
    double *parts = reinterpret_cast<double *>(memory.data);
#pragma omp parallel for schedule(static) num_threads(threads_for(x.views *x.positions, x.threads))
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t first = block * kBlock, count = least(kBlock, x.positions - first);
        Acc centre[kBlock], others[kBlock];
        double squares[kBlock], part = 0;
        const auto view = [&](int64_t v) { return static_cast<const Z *>(x.z) + v * x.positions + first; };
        for (int64_t k = 0; k < count; ++k) centre[k] = others[k] = 0, squares[k] = 0;
        for (int64_t v = 0; v < x.centred; ++v)
            for (int64_t k = 0; k < count; ++k) centre[k] += widen<Acc>(view(v)[k]) * each;
        for (int64_t v = x.views - 1; v >= 0; --v) { // those that make the centre come last
            const Z *z = view(v);
            Acc *gradient = dz ? static_cast<Acc *>(dz) + v * x.positions + first : nullptr;
            for (int64_t k = 0; k < count; ++k) {
                const Acc apart = widen<Acc>(z[k]) - centre[k];
                squares[k] += double(apart) * double(apart);
                if (v >= x.centred) others[k] += apart * each;
            }
            if (gradient)
                for (int64_t k = 0; k < count; ++k) {
                    const Acc apart = widen<Acc>(z[k]) - centre[k];
                    gradient[k] += slope * (v < x.centred ? apart - others[k] : apart);
                }
        }
        for (int64_t k = 0; k < count; ++k) part += squares[k];
        parts[block] = part;
    }
    double total = 0;
    for (int64_t block = 0; block < blocks; ++block) total += parts[block];
    *value = total * share;
    return true;
}

} // namespace
