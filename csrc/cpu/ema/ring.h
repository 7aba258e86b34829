// SPDX-License-Identifier: Apache-2.0
// Copies rows into a ring.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../row_access.h"
#include "../threads.h"

namespace {

template <class A, class B> struct Same { // std::is_same, without the STL
    static constexpr bool value = false;
};
template <class A> struct Same<A, A> {
    static constexpr bool value = true;
};

template <class Q, class K>
void enqueue_typed(void *queue, int64_t queue_stride, int64_t size, Rows keys, int64_t d, int64_t start, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads_for(keys.count *d, threads))
    for (int64_t i = 0; i < keys.count; ++i) {
        Q *to = static_cast<Q *>(queue) + wrap(start + i, size) * queue_stride;
        const K *from = row<K>(keys, i);
        if constexpr (Same<Q, K>::value)
            memcpy(to, from, d * sizeof(Q)); // this keeps the bits of a NaN
        else if constexpr (sizeof(Q) == 8 || sizeof(K) == 8)
            for (int64_t k = 0; k < d; ++k) to[k] = narrow<Q>(widen<double>(from[k]));
        else
            for (int64_t k = 0; k < d; ++k) to[k] = narrow<Q>(widen<float>(from[k]));
    }
}

} // namespace
