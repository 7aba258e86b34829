// SPDX-License-Identifier: Apache-2.0
// Asks for huge pages under a large result, because page faults take a large part of its first write.
#pragma once
#include <stdint.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace {

constexpr int64_t kHuge = 2 << 20;       // bytes of a huge page
constexpr int64_t kFreshBytes = 4 << 20; // bytes of a result from which on it pays

// Asks for huge pages under a result that nothing has touched yet, and says whether it is larger than the caches.
inline bool fresh(void *data, int64_t bytes) {
#if defined(__linux__)
    if (bytes >= kFreshBytes) {
        const uintptr_t from = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
        const uintptr_t to = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
        if (to > from) madvise(reinterpret_cast<void *>(from), to - from, MADV_HUGEPAGE);
    }
#endif
    return bytes >= kFreshBytes;
}

} // namespace
