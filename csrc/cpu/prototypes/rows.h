// SPDX-License-Identifier: Apache-2.0
// Walks a row of logits. It is short enough for the L2 cache, so that it comes from memory once, however often it is
// read.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../threads.h"
#include "../vector.h"
#include "products.h"

namespace {

template <class T> constexpr T kLowestLogit = sizeof(T) == 4 ? T(-0x1.fffffep127) : T(-0x1.fffffffffffffp1023);

// Reads the last numbers of a row, and `fill` beyond.
template <class T> inline Vector<T> load_some(const T *p, int64_t count, T fill) {
    if (count >= kLanes<T>) return load(p);
    T some[kLanes<T>];
    for (int64_t i = 0; i < kLanes<T>; ++i) some[i] = i < count ? p[i] : fill;
    return load(some);
}

// Adds up in lanes within a stretch of a row, and in fp64 from stretch to stretch.
constexpr int64_t kStretch = 2048;

template <class T> struct Logits { // of one row
    const T *products, *bias;
    int64_t count;
    T scale;

    Vector<T> at(int64_t k) const {
        Vector<T> x = load_some(products + k, count - k, T(0)) * scale;
        if (bias) x += load_some(bias + k, count - k, T(0));
        if (count - k < kLanes<T>) // nothing stands beyond the end
            for (int64_t i = count - k; i < kLanes<T>; ++i) x[i] = -T(INFINITY);
        return x;
    }
    T top() const {
        Vector<T> most = all(kLowestLogit<T>);
        for (int64_t k = 0; k < count; k += kLanes<T>) most = larger<T>(most, at(k));
        return largest<T>(most);
    }
    // Writes e^(logit - top) and returns the sum.
    double exponentials(T top, T *out) const {
        double total = 0;
        for (int64_t first = 0; first < count; first += kStretch) {
            Vector<T> part{};
            for (int64_t k = first; k < least(first + kStretch, count); k += kLanes<T>) {
                const Vector<T> e = expv(at(k) - top);
                part += e;
                store_some(out + k, e, count - k);
            }
            total += double(sum<T>(part));
        }
        return total;
    }
};

} // namespace
