// SPDX-License-Identifier: Apache-2.0
// Register tiles: MR rows by three vectors of lanes, accumulated over k.
//   dot_tile    S[m][n] = sum_k other[m][k] * owner[n][k]     owners in lanes, packed k-major
//   grad_strip  C[m][:] += sum_k G[m][k] * rows[k][:]         G is the weight tile, rows packed in panels of NR
//   features
// A policy names the element: Wide<T> multiplies in T; Pairs multiplies two bfloat16 at a time into fp32.
// Per step of k a tile loads 3 vectors, broadcasts MR elements and does 3*MR multiply-adds: bound by the FMA units.
#pragma once
#include "rows.h"

namespace {

#define SSLK_INLINE inline __attribute__((always_inline))

constexpr int kBlock = 192; // rows of a block; a multiple of NR for every vector width

template <class T> struct Wide {
    using Acc = T;
    using Elem = T;
    static constexpr int kPack = 1; // elements of k in one Elem
    static constexpr int MR = SSLK_VECTOR_BYTES == 64 ? 8 : 4;
    static constexpr int NR = 3 * kLanes<T>;

    static SSLK_INLINE Vector<T> step(Vector<T> acc, T a, const T *b) { return acc + all<T>(a) * load<T>(b); }

    template <class In> static void elements(const In *row, int64_t k, int64_t count, int64_t, T *out) {
        for (int64_t i = 0; i < count; ++i) out[i] = widen<T>(row[k + i]);
    }
    template <class In> static Elem across(const In *row, const In *, int64_t k) { return widen<T>(row[k]); }
    // One strip of weights into both layouts; with kPack = 1 they are the same buffer.
    static void keep(const T *g, int64_t m, int64_t n, Elem *by_other, Elem *) {
        for (int r = 0; r < MR; ++r)
            for (int v = 0; v < NR; v += kLanes<T>) store(by_other + (m + r) * kBlock + n + v, load(g + r * NR + v));
    }
};

#if defined(__AVX512BF16__)
struct Pairs {
    using Acc = float;
    using Elem = uint32_t;
    static constexpr int kPack = 2;
    static constexpr int MR = 8;
    static constexpr int NR = 48;

    static SSLK_INLINE Vector<float> step(Vector<float> acc, uint32_t a, const uint32_t *b) {
        __m512i lanes;
        memcpy(&lanes, b, sizeof lanes);
        return (Vector<float>)_mm512_dpbf16_ps((__m512)acc, (__m512bh)_mm512_set1_epi32(int(a)), (__m512bh)lanes);
    }
    static void elements(const bf16 *row, int64_t k, int64_t count, int64_t d, uint32_t *out) {
        const bool odd = 2 * (k + count) > d; // the last element has no partner
        memcpy(out, row + 2 * k, 4 * (count - odd));
        if (odd) out[count - 1] = row[d - 1].bits;
    }
    static uint32_t across(const bf16 *row, const bf16 *next, int64_t k) {
        return row[k].bits | (next ? uint32_t(next[k].bits) << 16 : 0);
    }
    static void keep(const float *g, int64_t m, int64_t n, uint32_t *by_other, uint32_t *by_owner) {
        uint16_t *rows = reinterpret_cast<uint16_t *>(by_other);
        for (int r = 0; r < MR; r += 2)
            for (int v = 0; v < NR; v += 16) {
                const __m256i low = (__m256i)_mm512_cvtneps_pbh((__m512)load(g + r * NR + v));
                const __m256i high = (__m256i)_mm512_cvtneps_pbh((__m512)load(g + (r + 1) * NR + v));
                memcpy(rows + (m + r) * kBlock + n + v, &low, 32);
                memcpy(rows + (m + r + 1) * kBlock + n + v, &high, 32);
                const __m512i pair =
                    _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                memcpy(by_owner + (m + r) / 2 * kBlock + n + v, &pair, 64);
            }
    }
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

// a: MR rows of the packed others, `panel` elements from one panel of NR steps to the next.
template <class P>
void dot_tile(const typename P::Elem *a, int64_t panel, const typename P::Elem *b, int64_t steps, typename P::Acc *s) {
    using Acc = typename P::Acc;
    Vector<Acc> acc[P::MR][3] = {};
    for (int64_t k = 0; k < steps; k += P::NR, a += panel)
        multiply<P, 3>(a, P::NR, 1, b + k * P::NR, steps - k < P::NR ? steps - k : P::NR, acc);
    for (int m = 0; m < P::MR; ++m)
        for (int v = 0; v < 3; ++v) store(s + m * P::NR + v * kLanes<Acc>, acc[m][v]);
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

// C[rows][features] += G * packed rows. ByOwner walks the weights down their columns: owners' gradient.
template <class P, bool ByOwner>
void grad_block(const typename P::Elem *g, int64_t rows, int64_t steps, const typename P::Elem *packed,
                int64_t features, typename P::Acc *c, int64_t ldc) {
    constexpr int64_t am = ByOwner ? 1 : kBlock / P::kPack, ak = ByOwner ? kBlock : 1;
    constexpr int lanes = kLanes<typename P::Acc>;
    for (int64_t f = 0; f < features; f += P::NR, packed += kBlock / P::kPack * P::NR) {
        const int64_t left = features - f;
        for (int64_t m = 0; m < rows; m += P::MR) {
            const int valid = rows - m < P::MR ? int(rows - m) : P::MR;
            typename P::Acc *out = c + m * ldc + f;
            if (left > 2 * lanes)
                grad_strip<P, 3>(g + m * am, am, ak, packed, steps, out, ldc, valid);
            else if (left > lanes)
                grad_strip<P, 2>(g + m * am, am, ak, packed, steps, out, ldc, valid);
            else
                grad_strip<P, 1>(g + m * am, am, ak, packed, steps, out, ldc, valid);
        }
    }
}

// Owners for dot_tile: [panel of NR owners][k][NR]; missing owners are zero.
template <class P, class In>
void pack_lanes(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    constexpr int kChunk = 16;
    const int64_t steps = (d + P::kPack - 1) / P::kPack;
    for (int64_t n0 = 0; n0 < count; n0 += P::NR, out += steps * P::NR)
        for (int64_t k0 = 0; k0 < steps; k0 += kChunk) {
            const int64_t width = steps - k0 < kChunk ? steps - k0 : kChunk;
            typename P::Elem chunk[P::NR][kChunk] = {};
            for (int n = 0; n < P::NR && n0 + n < count; ++n)
                P::elements(row<In>(rows, first + n0 + n), k0, width, d, chunk[n]);
            for (int64_t k = 0; k < width; ++k)
                for (int n = 0; n < P::NR; ++n) out[(k0 + k) * P::NR + n] = chunk[n][k];
        }
}

// Others for dot_tile: [panel of NR steps][row][NR]; rows up to a multiple of MR are zero.
template <class P, class In>
void pack_others(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    const int64_t steps = (d + P::kPack - 1) / P::kPack, padded = (count + P::MR - 1) / P::MR * P::MR;
    for (int64_t k0 = 0; k0 < steps; k0 += P::NR, out += kBlock * P::NR) {
        const int64_t width = steps - k0 < P::NR ? steps - k0 : P::NR;
        for (int64_t r = 0; r < count; ++r) {
            typename P::Elem *to = out + r * P::NR;
            P::elements(row<In>(rows, first + r), k0, width, d, to);
            for (int64_t k = width; k < P::NR; ++k) to[k] = 0;
        }
        memset(out + count * P::NR, 0, (padded - count) * P::NR * sizeof(typename P::Elem));
    }
}

// Rows for grad_block: [panel of NR features][row / kPack][NR]; features past the end are zero.
template <class P, class In>
void pack_features(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    for (int64_t f = 0; f < d; f += P::NR, out += kBlock / P::kPack * P::NR) {
        const int64_t width = d - f < P::NR ? d - f : P::NR;
        for (int64_t r = 0; r < count; r += P::kPack) {
            const In *in = row<In>(rows, first + r);
            const In *next = r + 1 < count ? row<In>(rows, first + r + 1) : nullptr;
            typename P::Elem *to = out + r / P::kPack * P::NR;
            for (int64_t k = 0; k < width; ++k) to[k] = P::across(in, next, f + k);
            for (int64_t k = width; k < P::NR; ++k) to[k] = 0;
        }
    }
}

} // namespace
