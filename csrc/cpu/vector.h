// SPDX-License-Identifier: Apache-2.0
// Vectors and their arithmetic, written once for every instruction set with the vector extensions of GCC and clang.
// CMake sets SSLK_VECTOR_BYTES. Everything is in an anonymous namespace and uses no STL, because the linker must never
// pick a weak symbol that was compiled for AVX-512.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

template <class T> struct VectorOf;
template <> struct VectorOf<float> {
    typedef float type __attribute__((vector_size(SSLK_VECTOR_BYTES)));
    typedef uint32_t bits __attribute__((vector_size(SSLK_VECTOR_BYTES)));
};
template <> struct VectorOf<double> {
    typedef double type __attribute__((vector_size(SSLK_VECTOR_BYTES)));
    typedef uint64_t bits __attribute__((vector_size(SSLK_VECTOR_BYTES)));
};
template <class T> using Vector = typename VectorOf<T>::type;
template <class T> constexpr int kLanes = SSLK_VECTOR_BYTES / int(sizeof(T));

template <class T> inline Vector<T> load(const T *p) {
    Vector<T> v;
    memcpy(&v, p, sizeof v);
    return v;
}
template <class T> inline void store(T *p, Vector<T> v) { memcpy(p, &v, sizeof v); }
// x - 0 is x, and the compiler knows it. 0 + x is not where x is -0, so it would be added up before every broadcast.
template <class T> inline Vector<T> all(T x) { return x - Vector<T>{}; }
// A NaN in b comes out and a NaN in a does not, as with the processor's max and min.
template <class T> inline Vector<T> larger(Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vector<T>)_mm512_max_ps((__m512)a, (__m512)b);
#endif
    return a > b ? a : b;
}
template <class T> inline Vector<T> smaller(Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (Vector<T>)_mm512_min_ps((__m512)a, (__m512)b);
#endif
    return a < b ? a : b;
}
template <class T> inline T sum(Vector<T> v) {
    T s = 0;
    for (int i = 0; i < kLanes<T>; ++i) s += v[i];
    return s;
}
template <class T> inline T largest(Vector<T> v) {
    T s = v[0];
    for (int i = 1; i < kLanes<T>; ++i) s = v[i] > s ? v[i] : s;
    return s;
}
template <class T> inline T smallest(Vector<T> v) {
    T s = v[0];
    for (int i = 1; i < kLanes<T>; ++i) s = v[i] < s ? v[i] : s;
    return s;
}

// Computes e^u for u < 88. It is exactly zero below -87.3 (an excluded pair has u = -inf), and NaN stays NaN. The
// relative error is 1e-7, and 4e-8 |u| more from the rounding of u*log2(e).
inline Vector<float> expv(Vector<float> u) {
    const Vector<float> low = all<float>(-0x1.5d589ep+6f), log2e = all<float>(0x1.715476p+0f); // low: -126 ln 2
    const Vector<float> clamped = larger<float>(low, u);
#if defined(__AVX512F__)
    const Vector<float> n = (Vector<float>)_mm512_roundscale_ps((__m512)(clamped * log2e), 8);
#else
    const Vector<float> magic = all<float>(12582912.0f); // 1.5 * 2^23; adding it rounds to a whole number
    const Vector<float> shifted = clamped * log2e + magic;
    const Vector<float> n = shifted - magic;
#endif
    const Vector<float> f = clamped * log2e - n;
    Vector<float> p = all<float>(0x1.41d334p-13f); // minimax polynomial of 2^f on [-1/2, 1/2]
    p = p * f + 0x1.5f456ap-10f;
    p = p * f + 0x1.3b2dbcp-7f;
    p = p * f + 0x1.c6aed4p-5f;
    p = p * f + 0x1.ebfbdap-3f;
    p = p * f + 0x1.62e430p-1f;
    p = p * f + 1.0f;
#if defined(__AVX512F__)
    const __mmask16 kept = _mm512_cmp_ps_mask((__m512)u, (__m512)low, _CMP_NLT_UQ);
    return (Vector<float>)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)n);
#else
    typedef VectorOf<float>::bits Bits;
    const Bits exponent = ((Bits)shifted << 23) + (Bits)all<float>(1.0f);
    return u < low ? all<float>(0.0f) : p * (Vector<float>)exponent;
#endif
}
inline Vector<double> expv(Vector<double> u) {
    for (int i = 0; i < kLanes<double>; ++i) u[i] = u[i] < -708.0 ? 0.0 : exp(u[i]);
    return u;
}
template <class T> inline T exps(T u) { return expv(all<T>(u))[0]; }

} // namespace
