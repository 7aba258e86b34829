// SPDX-License-Identifier: Apache-2.0
// Computes m t + (1 - m) s. In double it is right to half a bit of every narrower target, infinite numbers included.
// Teachers have m >= 0.9. There t + (1 - m)(s - t) in fp32 is as good and a seventh faster, because the
// roundings of the weight and of the difference count a tenth. (Near m = 0.5 they would come to 0.7 eps max(|t|, |s|).)
#pragma once
#include "../dtypes.h"
#include "kernels.h"

namespace {

struct Copied {
    template <class T> T operator()(T, T s) const { return s; }
};
struct InDouble {
    double keep, take;
    double operator()(double t, double s) const { return keep * t + take * s; }
};
struct InSingle {
    float keep, take;
    float operator()(float t, float s) const {
        const float gap = s - t;
        // The gap of infinite numbers, or of the largest ones, may be infinite or NaN where the average is not.
        return gap - gap == 0.0f ? t + take * gap : keep * t + take * s;
    }
};
struct Nothing {};

// Rounds x to T but keeps it in 32 bits, because gcc makes slow vectors of 16-bit integers. The result for NaN means
// nothing.
template <class T> inline float rounded_to(float x);
template <> inline float rounded_to<bf16>(float x) {
    const uint32_t bits = to_bits(x);
    return from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}
template <> inline float rounded_to<f16>(float x) {
    const uint32_t size = to_bits(x) & 0x7fffffff;
    const float normal = from_bits((size + 0xfff + (size >> 13 & 1)) & 0xffffe000);
    const float near =
        size < 0x38800000 ? (from_bits(size) + 0.5f) - 0.5f : normal; // the adder rounds subnormal numbers
    const uint32_t whole = size >= 0x477ff000 ? 0x7f800000 : to_bits(near);
    return from_bits(whole | (to_bits(x) & 0x80000000));
}

// Moves `kept` to average(kept, source), and writes the result to `rounded` too unless T is Nothing. If `rounded` is
// not the rounding of `kept`, it was written since; it is the newer number, and the average starts from it.
template <class Acc, class Average, class Kept, class S, class T>
void move_by(Average average, Kept *kept, const S *source, T *rounded, int64_t count) {
#pragma GCC ivdep
    for (int64_t k = 0; k < count; ++k) {
        Acc was = widen<Acc>(kept[k]);
        if constexpr (sizeof(T) == 2) {
            const Acc held = widen<Acc>(rounded[k]);
            was = (was == was) & (rounded_to<T>(kept[k]) == held) ? was : held;
        }
        const Acc now = average(was, widen<Acc>(source[k]));
        kept[k] = narrow<Kept>(now); // gcc makes no vectors of a loop that copies a 16-bit struct from a variable
        if constexpr (sizeof(T) == 2) rounded[k] = narrow<T>(narrow<Kept>(now));
    }
}

template <class Kept, class S, class T>
void move_towards(Kept *kept, const S *source, T *rounded, int64_t count, double m) {
    // The target does not count at all then, not even where it is infinite.
    if (m == 0) return move_by<double>(Copied{}, kept, source, rounded, count);
    if constexpr (sizeof(Kept) < 8 && sizeof(S) < 8) {
        if (m >= 0.9) return move_by<float>(InSingle{float(m), float(1 - m)}, kept, source, rounded, count);
    }
    move_by<double>(InDouble{m, 1 - m}, kept, source, rounded, count);
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
