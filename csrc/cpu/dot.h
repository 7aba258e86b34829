// SPDX-License-Identifier: Apache-2.0
// Computes the dot product of two rows, in vector lanes of the type that holds the sum.
#pragma once
#include "dtypes.h"
#include "vector.h"

namespace {

template <class Acc, class A, class B> inline Acc dot(const A *a, const B *b, int64_t d) {
    constexpr int L = 4 * kLanes<Acc>;
    Acc lanes[L] = {};
    int64_t k = 0;
    for (; k + L <= d; k += L)
        for (int l = 0; l < L; ++l) lanes[l] += widen<Acc>(a[k + l]) * widen<Acc>(b[k + l]);
    Acc total = 0;
    for (; k < d; ++k) total += widen<Acc>(a[k]) * widen<Acc>(b[k]);
    for (int width = L / 2; width > 0; width /= 2)
        for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
    return total + lanes[0];
}

} // namespace
