// SPDX-License-Identifier: Apache-2.0
// Ranks the tokens of a sample by random keys, for masking: a stable radix sort of the keys, eight bits at a time.
#pragma once
#include "../memory.h"
#include "../threads.h"
#include "kernels.h"
#include <string.h>

namespace {

// Returns bits whose order as whole numbers is the order of the keys. -0 equals 0, and NaN comes last.
inline uint32_t ordered_bits(float key) {
    const float plain = key + 0.0f;
    uint32_t bits;
    memcpy(&bits, &plain, sizeof bits);
    if (plain != plain) return 0xffffffffu;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline int ranks(const void *keys_, int64_t batch, int64_t length, int64_t keep, void *ids_keep, void *ids_restore,
                 void *mask_, int threads) {
    const float *keys = static_cast<const float *>(keys_);
    int64_t *kept = static_cast<int64_t *>(ids_keep), *rank = static_cast<int64_t *>(ids_restore);
    float *mask = static_cast<float *>(mask_);
    const int64_t piece = length * int64_t(sizeof(uint32_t));
    int result = sslkernels::kDone;
#pragma omp parallel num_threads(threads_for(batch * length * 8, threads))
    {
        Memory memory(4 * (piece + 64));
        uint32_t *bits = reinterpret_cast<uint32_t *>(memory.take(piece));
        uint32_t *order = reinterpret_cast<uint32_t *>(memory.take(piece));
        uint32_t *other_bits = reinterpret_cast<uint32_t *>(memory.take(piece));
        uint32_t *other_order = reinterpret_cast<uint32_t *>(memory.take(piece));
#pragma omp for schedule(static) reduction(max : result)
        for (int64_t b = 0; b < batch; ++b) {
            if (!memory.data) {
                result = sslkernels::kNoMemory;
                continue;
            }
            for (int64_t l = 0; l < length; ++l) bits[l] = ordered_bits(keys[b * length + l]), order[l] = uint32_t(l);
            for (int shift = 0; shift < 32; shift += 8) {
                uint32_t start[257] = {};
                for (int64_t l = 0; l < length; ++l) ++start[(bits[l] >> shift & 255) + 1];
                for (int v = 0; v < 256; ++v) start[v + 1] += start[v];
                for (int64_t l = 0; l < length; ++l) {
                    const uint32_t to = start[bits[l] >> shift & 255]++;
                    other_bits[to] = bits[l], other_order[to] = order[l];
                }
                uint32_t *swap = bits;
                bits = other_bits, other_bits = swap;
                swap = order, order = other_order, other_order = swap;
            }
            for (int64_t r = 0; r < length; ++r) {
                const int64_t l = order[r];
                rank[b * length + l] = r;
                mask[b * length + l] = r >= keep ? 1.0f : 0.0f;
                if (r < keep) kept[b * keep + r] = l;
            }
        }
    }
    return result;
}

} // namespace
