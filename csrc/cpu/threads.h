// SPDX-License-Identifier: Apache-2.0
// Decides how many threads a kernel starts, and sums what they find.
#pragma once
#include <omp.h>
#include <stdint.h>

namespace {

// A second thread costs more than it saves below 65,536 elements.
inline int threads_for(int64_t elements, int threads) { return elements < 65536 ? 1 : threads; }

// Adds up f(first, end) over blocks of 0 to n, in an order that does not depend on the number of threads.
template <class F> inline double sum_in_blocks(int64_t n, int threads, F f) {
    constexpr int64_t kBlocks = 256;
    double sums[kBlocks], total = 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < kBlocks; ++b) sums[b] = f(b * n / kBlocks, (b + 1) * n / kBlocks);
    for (const double sum : sums) total += sum;
    return total;
}

} // namespace
