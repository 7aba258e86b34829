// SPDX-License-Identifier: Apache-2.0
// How many threads a kernel starts.
#pragma once
#include <omp.h>
#include <stdint.h>

namespace {

// Below this many elements a second thread costs more than it saves.
inline int threads_for(int64_t elements, int threads) { return elements < 65536 ? 1 : threads; }

} // namespace
