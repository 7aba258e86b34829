// SPDX-License-Identifier: Apache-2.0
// Sums the lanes in which a row was summed.
#pragma once

namespace {

// Adds the second half to the first until one number is left. The widths are constants, so that it stays in registers.
template <int kWidth, class T> inline T sum_by_halves(const T *lanes) {
    if constexpr (kWidth == 1) {
        return lanes[0];
    } else {
        T halves[kWidth / 2];
        for (int l = 0; l < kWidth / 2; ++l) halves[l] = lanes[l] + lanes[l + kWidth / 2];
        return sum_by_halves<kWidth / 2>(halves);
    }
}

} // namespace
