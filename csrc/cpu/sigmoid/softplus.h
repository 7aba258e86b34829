// SPDX-License-Identifier: Apache-2.0
// Computes softplus and its derivative, the sigmoid, of vectors: with e = e^-|u|
//   softplus(u) = max(u, 0) + log(1 + e),   sigmoid(u) = 1/(1 + e) or e/(1 + e)
// log(1 + e) is e times a polynomial, so small e keep all their digits: the sum of thousands of softplus(-10) = 4.5e-5
// is made of them. The relative error is 2e-7, and 4e-8 |u| more from that of e. Cost: about 30 operations.
#pragma once
#include "../tiles.h"

namespace {

// The relative error is 1.8e-7 for 0 <= e <= 1.
SSLK_INLINE Vector<float> log_one_more(Vector<float> e) {
    Vector<float> p = all<float>(0x1.56edf0p-8f); // minimax polynomial of log(1 + e) / e on [0, 1]
    p = p * e - 0x1.e369d6p-6f;
    p = p * e + 0x1.4069d0p-4f;
    p = p * e - 0x1.17d2bep-3f;
    p = p * e + 0x1.874a7ep-3f;
    p = p * e - 0x1.fcc8c6p-3f;
    p = p * e + 0x1.553004p-2f;
    p = p * e - 0x1.fffeacp-2f;
    p = p * e + 0x1.fffffep-1f;
    return p * e;
}
SSLK_INLINE Vector<double> log_one_more(Vector<double> e) {
    for (int i = 0; i < kLanes<double>; ++i) e[i] = log1p(e[i]);
    return e;
}

// The two terms of softplus are summed apart: a large logit would take the digits of small ones.
template <class Acc> struct Softplus {
    Vector<Acc> linear, log, slope; // max(u, 0), log(1 + e), and the sigmoid
};
// Without `Sloped` the slope is not computed.
template <bool Sloped, class Acc> SSLK_INLINE Softplus<Acc> softplus(Vector<Acc> u) {
    const Vector<Acc> zero = {}, e = expv(u < 0 ? u : -u);
    Softplus<Acc> out;
    out.linear = larger<Acc>(zero, u), out.log = log_one_more(e);
    if constexpr (Sloped) out.slope = (u < 0 ? e : all<Acc>(1)) / (1 + e);
    return out;
}

} // namespace
