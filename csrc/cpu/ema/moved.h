// SPDX-License-Identifier: Apache-2.0
// m t + (1 - m) s. In double it is right to half a bit of every narrower target, infinite numbers included. From m =
// 0.9 on, where teachers are, fp32 is as good and a seventh faster: t + (1 - m)(s - t), in which the roundings of the
// weight and of the difference count a tenth. (Near m = 0.5 they would come to 0.7 eps max(|t|, |s|).)
#pragma once
#include "../packing.h"
#include "../variant.h"

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
        // of infinite numbers, and of the largest, the gap is not finite where the average is
        return gap - gap == 0.0f ? t + take * gap : keep * t + take * s;
    }
};
struct Nothing {};

// kept <- average(kept, source), and to `rounded` unless that is Nothing.
template <class Acc, class Average, class Kept, class S, class T>
void move_by(Average average, Kept *kept, const S *source, T *rounded, int64_t count) {
#pragma GCC ivdep
    for (int64_t k = 0; k < count; ++k) {
        const Acc now = average(widen<Acc>(kept[k]), widen<Acc>(source[k]));
        kept[k] = narrow<Kept>(now); // at once: gcc makes no vectors of a loop that copies a 16-bit struct
        if constexpr (sizeof(T) == 2) rounded[k] = narrow<T>(narrow<Kept>(now));
    }
}

template <class Kept, class S, class T>
void move_towards(Kept *kept, const S *source, T *rounded, int64_t count, double m) {
    if (m == 0) return move_by<double>(Copied{}, kept, source, rounded, count); // nothing of the target, be it infinite
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
