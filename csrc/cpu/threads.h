// SPDX-License-Identifier: Apache-2.0
// Decides how many threads a kernel starts.
#pragma once
#include <omp.h>
#include <stdint.h>

namespace {

// A second thread costs more than it saves below 65,536 elements.
inline int threads_for(int64_t elements, int threads) { return elements < 65536 ? 1 : threads; }

} // namespace
