// SPDX-License-Identifier: Apache-2.0
// Updates teachers and queues.
//
//   update    t <- m t + (1 - m) s over every tensor of a model in one pass. Where a 16-bit target has a master M
//             in fp32, M moves and t is M rounded. If t is not the rounding of M, somebody wrote t, and M starts again
//             from t.
//   enqueue   queue[(start + i) mod size] <- keys[i]
//
// Cost: one read of target and source and one write of the target, 12 bytes and 3 operations per fp32 parameter. Memory
// bounds it, so the parameters of all tensors together are divided evenly among the threads.
// Measurements: docs/design/ema.md
#include "../dtypes.h"
#include "../integers.h"
#include "../threads.h"
#include "../variant.h"
#include "kernels.h"
#include "moved.h"
#include "ring.h"

namespace {

using sslkernels::EmaPair;

// Calls f with an element of the target and one of the source.
template <class F> void with_pair(const EmaPair &pair, F f) {
    with_type(pair.target_dtype(), [&](auto t) { with_type(pair.source_dtype(), [&](auto s) { f(t, s); }); });
}

void update(const EmaPair *pairs, int64_t count, double momentum, int threads) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; ++i) total += pairs[i].count;
#pragma omp parallel num_threads(threads_for(total, threads))
    {
        constexpr int64_t kLine = 64; // elements; threads never write to the same line of the cache
        const int64_t lines = (total + kLine - 1) / kLine;
        int64_t first = lines * omp_get_thread_num() / omp_get_num_threads() * kLine;
        int64_t left = lines * (omp_get_thread_num() + 1) / omp_get_num_threads() * kLine - first;
        for (int64_t i = 0; i < count && left > 0; ++i) {
            const EmaPair &pair = pairs[i];
            if (first >= pair.count) {
                first -= pair.count;
                continue;
            }
            const int64_t own = least(left, pair.count - first);
            with_pair(pair, [&](auto t, auto s) { move<decltype(t), decltype(s)>(pair, first, own, momentum); });
            left -= own;
            first = 0;
        }
    }
}

void enqueue(int queue_dtype, void *queue, int64_t queue_stride, int64_t size, int keys_dtype, Rows keys, int64_t d,
             int64_t start, int threads) {
    with_type(queue_dtype, [&](auto q) {
        with_type(keys_dtype, [&](auto k) {
            enqueue_typed<decltype(q), decltype(k)>(queue, queue_stride, size, keys, d, start, threads);
        });
    });
}

} // namespace

namespace sslkernels {
template <> const EmaKernels &kernels_for<EmaKernels, SSLK_VARIANT>() {
    static const EmaKernels table = {update, enqueue};
    return table;
}
} // namespace sslkernels
