// SPDX-License-Identifier: Apache-2.0
// Computes points e^(i angle) of the unit circle in vector lanes, for angles of any size, without a call in the loop.
//
//   angle / 2 pi = p * (c1 + c2 + c3) turns, with p = p1 + p2
//
// p1 c1, p2 c1 and p1 c2 are exact, so that whole turns fall away without rounding. It does not matter either whether
// the compiler fuses these products into multiply-adds, which not every instruction set has. The rest of the angle is
// the sum of two numbers. In fp32 it is right to 2^-24 min(1, |p| c1 / 2^12) turns, and rounded to half an ulp of a
// quarter turn (2e-8) only where it is evaluated. From |p| c1 = 2^22 on, neighbouring numbers are half a turn apart and
// the products lose whole turns. The digits of p give a point of the circle there, which means nothing. Infinities and
// NaN give NaN.
#pragma once
#include "../vector.h"

namespace {

template <class T> struct Format;
template <> struct Format<float> {
    static constexpr float magic = 0x1.8p+23f; // adding it rounds to a whole number and leaves that in the low bits
    static constexpr uint32_t high_half = 0xfffff000; // keeps 12 bits; products of two such numbers are exact
    static constexpr uint32_t magnitude = 0x7fffffff, exponent = 0x7f800000;
    static constexpr float most_turns = 0x1p22f;
    static constexpr int sign = 31;
    static constexpr int terms = 3;
    static constexpr float half_pi[2] = {0x1.921fb6p+0f, -0x1.777a5cp-25f};
    // sin x = x + x^3 P(x^2) and cos x = 1 - x^2 / 2 + x^4 Q(x^2) on |x| < 0.79, interpolated at Chebyshev nodes
    static constexpr float sine[terms] = {-0x1.555552p-3f, 0x1.110c10p-7f, -0x1.9abc2cp-13f};
    static constexpr float cosine[terms] = {0x1.555554p-5f, -0x1.6c12bep-10f, 0x1.9bcdc6p-16f};
};
template <> struct Format<double> {
    static constexpr double magic = 0x1.8p+52;
    static constexpr uint64_t high_half = 0xfffffffff8000000; // keeps 26 bits; 27 remain
    static constexpr uint64_t magnitude = 0x7fffffffffffffff, exponent = 0x7ff0000000000000;
    static constexpr double most_turns = 0x1p51;
    static constexpr int sign = 63;
    static constexpr int terms = 7;
    static constexpr double half_pi[2] = {0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54};
    static constexpr double sine[terms] = {-0x1.5555555555555p-3, 0x1.1111111111110p-7,   -0x1.a01a01a0198dep-13,
                                           0x1.71de3a5455b9ap-19, -0x1.ae64540000f84p-26, 0x1.6121703ee57b1p-33,
                                           -0x1.ab0f25d21fd92p-41};
    static constexpr double cosine[terms] = {0x1.5555555555555p-5,   -0x1.6c16c16c16c16p-10, 0x1.a01a01a019ce2p-16,
                                             -0x1.27e4fb770e01dp-22, 0x1.1eed8de33ebe0p-29,  -0x1.9394ace29bd7bp-37,
                                             0x1.ab70a23137c25p-45};
};

template <class T> struct Point { // a point (c, s) of the unit circle
    Vector<T> c, s;
};
template <class T> inline Point<T> times(Point<T> a, Point<T> b) {
    return {a.c * b.c - a.s * b.s, a.s * b.c + a.c * b.s};
}
template <class T> inline Point<T> squared(Point<T> a) {
    const Vector<T> twice = a.s + a.s;
    return {T(1) - twice * a.s, twice * a.c};
}

template <class T> struct Turn { // high + low, a part of a turn
    Vector<T> high, low;
};

// Subtracts the nearest whole number from x, or one near it where x is huge.
template <class T> inline Vector<T> part(Vector<T> x) {
    const Vector<T> whole = (x + Format<T>::magic) - Format<T>::magic;
    return x - whole;
}

// Returns p * (c[0] + c[1] + c[2]) turns without the whole ones. c[0] and c[1] have no more bits than `high_half`
// keeps.
template <class T> inline Turn<T> turn(Vector<T> p, const T *c) {
    typedef typename VectorOf<T>::bits Bits;
    using F = Format<T>;
    const Vector<T> limit = all<T>(F::most_turns / c[0]), below = limit * T(0.5);
    const Bits from = (Bits)limit, size = (Bits)p & F::magnitude; // bits compare as finite numbers do
    const auto huge = size - from < F::exponent - from;
    const Vector<T> digits = (Vector<T>)(((Bits)p & ~F::exponent) | ((Bits)below & F::exponent));
    p = huge ? digits : p;
    const Vector<T> p1 = (Vector<T>)((Bits)p & F::high_half), p2 = p - p1;
    const Vector<T> first = part<T>(p1 * c[0]);
    const Vector<T> rest = (part<T>(p2 * c[0]) + part<T>(p1 * c[1])) + (p2 * c[1] + p * c[2]);
    const Vector<T> high = first + rest, added = high - first;
    return {high, (first - (high - added)) + (rest - added)};
}

// Returns e^(i * angle) for an angle of `times` * `turn`. `times` is a power of two, so it multiplies without rounding.
template <class T> inline Point<T> point(Turn<T> turn, T times) {
    typedef typename VectorOf<T>::bits Bits;
    using F = Format<T>;
    const Vector<T> quarters = turn.high * (4 * times);
    const Vector<T> shifted = quarters + F::magic;
    const Vector<T> y = (quarters - (shifted - F::magic)) + turn.low * (4 * times); // |y| <= 1/2
    const Vector<T> x = y * F::half_pi[0] + y * F::half_pi[1];
    const Vector<T> u = x * x;
    Vector<T> p = all<T>(F::sine[F::terms - 1]), q = all<T>(F::cosine[F::terms - 1]);
    for (int k = F::terms - 2; k >= 0; --k) p = p * u + F::sine[k], q = q * u + F::cosine[k];
    const Vector<T> sine = x * u * p + x, cosine = (u * u * q - T(0.5) * u) + T(1);
    const Bits quarter = (Bits)shifted; // its low bits count quarter turns
    const auto odd = (quarter & 1) != 0;
    const Bits flip_c = ((quarter + 1) & 2) << (F::sign - 1), flip_s = (quarter & 2) << (F::sign - 1);
    const Vector<T> c = odd ? sine : cosine, s = odd ? cosine : sine;
    return {(Vector<T>)((Bits)c ^ flip_c), (Vector<T>)((Bits)s ^ flip_s)};
}

} // namespace
