// SPDX-License-Identifier: Apache-2.0
// Scratch memory for one call of a kernel.
#pragma once
#include "integers.h"
#include <stdlib.h>

namespace {

// Each calling thread keeps its last scratch up to this size, because fresh pages cost more than the arithmetic of a
// small problem.
constexpr int64_t kKeptBytes = 8 << 20; // bytes
struct Scratch {
    char *data = nullptr;
    int64_t bytes = 0;
    ~Scratch() { free(data); }
};
thread_local Scratch kept_scratch;

struct Memory { // one allocation, cut into 64-byte aligned pieces
    char *data = nullptr, *next = nullptr;
    int64_t bytes;
    explicit Memory(int64_t needed) : bytes(round_up(needed + 64, 64)) {
        if (kept_scratch.bytes >= bytes) {
            data = kept_scratch.data, bytes = kept_scratch.bytes;
            kept_scratch.data = nullptr, kept_scratch.bytes = 0;
        } else {
            data = static_cast<char *>(aligned_alloc(64, bytes));
        }
        next = data;
    }
    ~Memory() {
        const bool keep = data && bytes <= kKeptBytes && bytes > kept_scratch.bytes;
        free(keep ? kept_scratch.data : data);
        if (keep) kept_scratch.data = data, kept_scratch.bytes = bytes;
    }
    Memory(const Memory &) = delete;
    char *take(int64_t size) {
        char *at = next;
        next += round_up(size, 64);
        return at;
    }
};

} // namespace
