// SPDX-License-Identifier: Apache-2.0
// t + (1 - m)(s - t), within 0.6 eps max(|t|, |s|) of the exact value: the difference is multiplied by the smaller of
// the two weights, whose rounding then weighs least. Where it is not finite, m t + (1 - m) s: an infinite teacher or
// student gives an infinity and not NaN, and numbers near the largest do not overflow. 1 - m is taken in double.
#pragma once
#include "../packing.h"
#include "../variant.h"

namespace {

enum class Weight { kNone, kSmall, kLarge }; // of the target

template <Weight KEPT, class Acc> inline Acc moved(Acc t, Acc s, Acc keep, Acc take) {
    if (KEPT == Weight::kNone) return s;
    const Acc gap = s - t;
    const Acc between = KEPT == Weight::kLarge ? t + take * gap : s - keep * gap;
    const Acc apart = keep * t + take * s;
    return gap - gap == Acc(0) ? between : apart;
}

struct Nothing {};

// kept <- moved towards source, and to `rounded` unless that is Nothing.
template <Weight KEPT, class Kept, class S, class T>
void move_weighted(Kept *kept, const S *source, T *rounded, int64_t count, double momentum) {
    using Acc = decltype(typename Accumulator<Kept>::type() + typename Accumulator<S>::type());
    const Acc keep = Acc(momentum), take = Acc(1 - momentum);
#pragma GCC ivdep
    for (int64_t k = 0; k < count; ++k) {
        const auto now = narrow<Kept>(moved<KEPT>(widen<Acc>(kept[k]), widen<Acc>(source[k]), keep, take));
        kept[k] = now;
        if constexpr (sizeof(T) == 2) rounded[k] = narrow<T>(now);
    }
}

template <class Kept, class S, class T>
void move_towards(Kept *kept, const S *source, T *rounded, int64_t count, double momentum) {
    if (momentum == 0) return move_weighted<Weight::kNone>(kept, source, rounded, count, momentum);
    if (momentum < 0.5) return move_weighted<Weight::kSmall>(kept, source, rounded, count, momentum);
    move_weighted<Weight::kLarge>(kept, source, rounded, count, momentum);
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
