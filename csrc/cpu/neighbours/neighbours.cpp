// SPDX-License-Identifier: Apache-2.0
// Finds the k best rows of Y for each row of X by dot product, cosine or distance, without the matrix of all pairs.
//
//   products   tiles of X*Y^T, whose owners (rows of X) are in vector lanes
//   best       a tile's maxima are compared with the worst that each lane keeps; most tiles hold nothing better
//   distances  pairs are ranked by <x, y> - |y|^2/2 of centred rows; those of the k winners are computed from
//   differences
//
// The product of two rows has the same bits wherever it stands in a tile, and on any number of threads, so that equal
// rows tie, and the lower index wins. Cost: 2*N*M*D operations and O(N*k + M*D) bytes. Derivation and measurements:
// docs/design/neighbours.md
#include "../bfloat16.h"
#include "../variant.h"
#include "search.h"

namespace {

template <class P, class In> bool found(const Search &s, void *values, int64_t *indices) {
    using Acc = typename P::Acc;
    const int64_t n = s.x.count, m = s.y.count;
    const auto find = [&](int64_t b, int threads) {
        const Rows x{row<In>(s.x, 0) + b * s.x_apart, s.x.stride, n}, y{row<In>(s.y, 0) + b * s.y_apart, s.y.stride, m};
        Finder<P, In> finder{s,
                             x,
                             y,
                             s.bias ? static_cast<const Acc *>(s.bias) + b * m : nullptr,
                             s.exclude ? s.exclude + b * n * s.excluded : nullptr,
                             static_cast<Acc *>(values) + b * n * s.k,
                             indices + b * n * s.k};
        return finder.run(threads);
    };
    bool done = true;
    if (s.batch < s.threads || n * m * s.d >= (int64_t(1) << 28)) {
        // All threads compute one problem after another. A region around theirs, even of one thread, would make OpenMP
        // start new ones each time, which wait for a processor while those of the region before still spin.
        for (int64_t b = 0; b < s.batch; ++b) done = find(b, s.threads) && done;
        return done;
    }
    // Small problems are computed by one thread each.
#pragma omp parallel for schedule(dynamic) num_threads(s.threads) reduction(&& : done)
    for (int64_t b = 0; b < s.batch; ++b) done = find(b, 1) && done;
    return done;
}

bool topk(const Search &s, void *values, int64_t *indices) {
    if (s.x.count == 0 || s.batch == 0) return true;
    switch (s.dtype) {
    case sslkernels::kFloat64: return found<Wide<double>, double>(s, values, indices);
    case sslkernels::kBFloat16: return found<BFloat16Policy, bf16>(s, values, indices);
    case sslkernels::kFloat16: return found<Wide<float>, f16>(s, values, indices);
    default: return found<Wide<float>, float>(s, values, indices);
    }
}

} // namespace

namespace sslkernels {
template <> const NeighboursKernels &kernels_for<NeighboursKernels, SSLK_VARIANT>() {
    static const NeighboursKernels table = {topk};
    return table;
}
} // namespace sslkernels
