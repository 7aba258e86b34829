// SPDX-License-Identifier: Apache-2.0
// m t + (1 - m) s. In double, which costs nothing beside the memory: within half a bit of every narrower target, where
// in fp32 the rounding of weights and of s - t comes to 0.7 eps max(|t|, |s|). Infinite numbers need no care this way.
#pragma once
#include "../packing.h"
#include "../variant.h"

namespace {

struct Nothing {};

// kept <- moved towards source, and to `rounded` unless that is Nothing.
template <class Kept, class S, class T>
void move_towards(Kept *kept, const S *source, T *rounded, int64_t count, double momentum) {
    const double rest = 1 - momentum;
    const bool copy = momentum == 0; // nothing of the target, be it infinite
#pragma GCC ivdep
    for (int64_t k = 0; k < count; ++k) {
        const double t = widen<double>(kept[k]), s = widen<double>(source[k]);
        const auto now = narrow<Kept>(copy ? s : momentum * t + rest * s);
        kept[k] = now;
        if constexpr (sizeof(T) == 2) rounded[k] = narrow<T>(now);
    }
}

template <class T, class S> void move(const sslkernels::EmaPair &pair, int64_t first, int64_t count, double momentum) {
    T *target = reinterpret_cast<T *>(pair.target) + first;
    const S *source = reinterpret_cast<const S *>(pair.source) + first;
    if constexpr (sizeof(T) == 2) {
        if (pair.master)
            return move_towards(reinterpret_cast<float *>(pair.master) + first, source, target, count, momentum);
    }
    move_towards(target, source, static_cast<Nothing *>(nullptr), count, momentum);
}

} // namespace
