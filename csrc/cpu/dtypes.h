// SPDX-License-Identifier: Apache-2.0
// Defines the codes of dtypes, the C++ types they stand for, and conversions between those types.
#pragma once
#include <stdint.h>
#include <string.h>

namespace sslkernels {

enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

} // namespace sslkernels

namespace {

// bfloat16 and float16 are stored as 16 raw bits, and computed with after widen().
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
inline float from_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline uint32_t to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}
template <class Acc> inline Acc widen(float x) { return x; }
template <class Acc> inline Acc widen(double x) { return Acc(x); }
template <class Acc> inline Acc widen(bf16 x) { return from_bits(uint32_t(x.bits) << 16); }
template <class Acc> inline Acc widen(f16 x) {
    const float magnitude = from_bits(uint32_t(x.bits & 0x7fff) << 13) * 0x1p112f;
    const uint32_t infinite = magnitude >= 65536.0f ? 0x7f800000u : 0u; // infinities and NaN need the largest exponent
    return from_bits(to_bits(magnitude) | infinite | uint32_t(x.bits & 0x8000) << 16);
}
template <class Out> inline Out narrow(float x);
template <> inline float narrow<float>(float x) { return x; }
template <> inline double narrow<double>(float x) { return x; }
template <> inline bf16 narrow<bf16>(float x) {
    const uint32_t bits = to_bits(x);
    if (x != x) return {uint16_t(bits >> 16 | 0x40)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <> inline f16 narrow<f16>(float x) {
    const uint32_t sign = to_bits(x) >> 16 & 0x8000;
    const uint32_t bits = to_bits(x) & 0x7fffffff;
    if (bits > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    if (bits >= 0x477ff000) return {uint16_t(sign | 0x7c00)}; // it rounds to infinity
    if (bits < 0x38800000) {                                  // it is subnormal, and the adder rounds it
        const float shifted = from_bits(bits) + 0.5f;
        return {uint16_t(sign | (to_bits(shifted) - 0x3f000000))};
    }
    const uint32_t odd = bits >> 13 & 1;
    return {uint16_t(sign | ((bits + 0xfff + odd - 0x38000000) >> 13))};
}
template <class Out> inline Out narrow(double x) { return narrow<Out>(float(x)); }
template <> inline double narrow<double>(double x) { return x; }

// Calls f with a value of the type that the code stands for; the value itself means nothing.
template <class F> void with_type(int dtype, F f) {
    switch (dtype) {
    case sslkernels::kFloat64: return f(double());
    case sslkernels::kBFloat16: return f(bf16());
    case sslkernels::kFloat16: return f(f16());
    default: return f(float());
    }
}
// The type that sums of T run in.
template <class T> struct Accumulator {
    using type = float;
};
template <> struct Accumulator<double> {
    using type = double;
};

} // namespace
