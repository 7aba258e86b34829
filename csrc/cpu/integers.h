// SPDX-License-Identifier: Apache-2.0
// Whole-number arithmetic for sizes and indices.
#pragma once
#include <stdint.h>

namespace {

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t wrap(int64_t i, int64_t m) {
    const int64_t r = i % m;
    return r < 0 ? r + m : r;
}

} // namespace
