// SPDX-License-Identifier: Apache-2.0
// Register tiles of the matrix products: MR rows by three vectors of lanes, summed over k in registers.
//   dot_tile    S[m][n] = sum_k other[m][k] * owner[n][k]     owners in lanes, packed k-major
//   grad_strip  C[m][:] += sum_k G[m][k] * rows[k][:]         G: weights; rows in panels of NR features
// A policy says what the elements are: Wide<T> multiplies in T, and Pairs multiplies two bfloat16 at a time into fp32.
// In each step of k a tile loads 3 vectors, broadcasts MR elements and does 3*MR multiply-adds, so the FMA units bound
// it.
#pragma once
#include "dtypes.h"
#include "vector.h"

namespace {

#define SSLK_INLINE inline __attribute__((always_inline))

constexpr int kBlock = 192; // rows; a multiple of NR for every vector width

template <class T> struct Wide {
    using Acc = T;
    using Elem = T;
    static constexpr int kPack = 1;           // elements of k that one Elem holds
    static constexpr int kAlign = 1;          // zeros fill the steps of k up to a multiple of this
    static constexpr bool kOwnerRows = false; // keep() writes an owner's weights along a row, not a column
    struct Session {};                        // a thread has one while it multiplies
    static constexpr int MR = SSLK_VECTOR_BYTES == 64 ? 8 : 4;
    static constexpr int NR = 3 * kLanes<T>;

    static SSLK_INLINE Vector<T> step(Vector<T> acc, T a, const T *b) { return acc + all<T>(a) * load<T>(b); }

    template <class In> static void elements(const In *row, int64_t k, int64_t count, int64_t, T *out) {
        for (int64_t i = 0; i < count; ++i) out[i] = widen<T>(row[k + i]);
    }
    template <class In> static Elem across(const In *row, const In *, int64_t k) { return widen<T>(row[k]); }
    // Writes one strip of weights in both layouts, which are the same buffer where kPack is 1.
    static void keep(const T *g, int64_t m, int64_t n, Elem *by_other, Elem *) {
        for (int r = 0; r < MR; ++r)
            for (int v = 0; v < NR; v += kLanes<T>) store(by_other + (m + r) * kBlock + n + v, load(g + r * NR + v));
    }
    static void clear_tails(Elem *, Elem *, int64_t, int64_t) {}
};

#if defined(__AVX512BF16__)
struct Pairs {
    using Acc = float;
    using Elem = uint32_t;
    static constexpr int kPack = 2;
    static constexpr int kAlign = 1;
    static constexpr bool kOwnerRows = false;
    struct Session {};
    static constexpr int MR = 8;
    static constexpr int NR = 48;

    static SSLK_INLINE Vector<float> step(Vector<float> acc, uint32_t a, const uint32_t *b) {
        __m512i lanes;
        memcpy(&lanes, b, sizeof lanes);
        return (Vector<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)lanes);
    }
    static void elements(const bf16 *row, int64_t k, int64_t count, int64_t d, uint32_t *out) {
        if (2 * (k + count) <= d) { // where the compiler knows the count, these are a few vectors
            memcpy(out, row + 2 * k, 4 * count);
        } else { // the last element has no partner
            memcpy(out, row + 2 * k, 4 * (count - 1));
            out[count - 1] = row[d - 1].bits;
        }
    }
    static uint32_t across(const bf16 *row, const bf16 *next, int64_t k) {
        return row[k].bits | (next ? uint32_t(next[k].bits) << 16 : 0);
    }
    // Rounds weights r and r + 1 to bfloat16, writes each into its row, and returns them side by side for the owners.
    static SSLK_INLINE __m512i round_pair(const float *g, int r, int v, uint16_t *even, uint16_t *odd) {
        const __m256i low = (__m256i)_mm512_cvtneps_pbh((__m512)load(g + r * NR + v));
        const __m256i high = (__m256i)_mm512_cvtneps_pbh((__m512)load(g + (r + 1) * NR + v));
        memcpy(even + v, &low, 32);
        memcpy(odd + v, &high, 32);
        return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    }
    static void keep(const float *g, int64_t m, int64_t n, uint32_t *by_other, uint32_t *by_owner) {
        uint16_t *rows = reinterpret_cast<uint16_t *>(by_other) + m * kBlock + n;
        for (int r = 0; r < MR; r += 2)
            for (int v = 0; v < NR; v += 16) {
                const __m512i pair = round_pair(g, r, v, rows + r * kBlock, rows + (r + 1) * kBlock);
                memcpy(by_owner + (m + r) / 2 * kBlock + n + v, &pair, 64);
            }
    }
    static void clear_tails(Elem *, Elem *, int64_t, int64_t) {}
};
#endif

template <class P, int NV>
SSLK_INLINE void multiply(const typename P::Elem *a, int64_t am, int64_t ak, const typename P::Elem *b, int64_t steps,
                          Vector<typename P::Acc> (&acc)[P::MR][NV]) {
    for (int64_t k = 0; k < steps; ++k)
#pragma GCC unroll 8
        for (int m = 0; m < P::MR; ++m)
#pragma GCC unroll 3
            for (int v = 0; v < NV; ++v)
                acc[m][v] = P::step(acc[m][v], a[m * am + k * ak], b + k * P::NR + v * kLanes<typename P::Acc>);
}

// `a` holds MR rows of the packed others; it is `panel` elements from one panel of NR steps to the next.
template <class P, int NV>
SSLK_INLINE void dot_strip(const typename P::Elem *a, int64_t panel, const typename P::Elem *b, int64_t steps,
                           typename P::Acc *s) {
    using Acc = typename P::Acc;
    Vector<Acc> acc[P::MR][NV] = {};
    for (int64_t k = 0; k < steps; k += P::NR, a += panel)
        multiply<P, NV>(a, P::NR, 1, b + k * P::NR, steps - k < P::NR ? steps - k : P::NR, acc);
    // Lanes beyond the vectors get the numbers of the first, so that they change neither the range nor a NaN.
    for (int m = 0; m < P::MR; ++m)
        for (int v = 0; v < 3; ++v) store(s + m * P::NR + v * kLanes<Acc>, acc[m][v < NV ? v : 0]);
}

// Fills one strip of MR rows and up to three vectors of owners.
template <class P>
void dot_tile(const typename P::Elem *a, int64_t panel, const typename P::Elem *b, int64_t steps, typename P::Acc *s,
              int vectors) {
    if (vectors > 2)
        dot_strip<P, 3>(a, panel, b, steps, s);
    else if (vectors > 1)
        dot_strip<P, 2>(a, panel, b, steps, s);
    else
        dot_strip<P, 1>(a, panel, b, steps, s);
}

template <class P, int NV>
SSLK_INLINE void grad_strip(const typename P::Elem *a, int64_t am, int64_t ak, const typename P::Elem *b, int64_t steps,
                            typename P::Acc *c, int64_t ldc, int rows) {
    using Acc = typename P::Acc;
    Vector<Acc> acc[P::MR][NV] = {};
    multiply<P, NV>(a, am, ak, b, steps, acc);
    for (int m = 0; m < P::MR; ++m)
        if (m < rows)
            for (int v = 0; v < NV; ++v) {
                Acc *at = c + m * ldc + v * kLanes<Acc>;
                store(at, load(at) + acc[m][v]);
            }
}

// Adds to one strip of MR rows and up to three vectors of features.
template <class P>
void grad_tile(const typename P::Elem *a, int64_t am, int64_t ak, const typename P::Elem *b, int64_t steps,
               typename P::Acc *c, int64_t ldc, int rows, int vectors) {
    if (vectors > 2)
        grad_strip<P, 3>(a, am, ak, b, steps, c, ldc, rows);
    else if (vectors > 1)
        grad_strip<P, 2>(a, am, ak, b, steps, c, ldc, rows);
    else
        grad_strip<P, 1>(a, am, ak, b, steps, c, ldc, rows);
}

} // namespace
