// SPDX-License-Identifier: Apache-2.0
// Lays rows out as the register tiles read them, and multiplies a block of weights by packed rows.
#pragma once
#include "integers.h"
#include "row_access.h"
#include "tiles.h"

namespace {

// The steps of k that `count` elements take, with the zeros that fill up the last one.
template <class P> constexpr int64_t steps_for(int64_t count) {
    return (count + P::kPack * P::kAlign - 1) / (P::kPack * P::kAlign) * P::kAlign;
}

// Cuts the rows of each of `groups` into as few blocks of at most `most` rows as can be, all of one length: a group
// with a longer block would keep the others waiting.
template <class P> int64_t block_of(int64_t rows, int64_t groups, int64_t most) {
    constexpr int64_t kUnit = kLanes<typename P::Acc> > P::MR ? kLanes<typename P::Acc> : P::MR;
    if (rows == 0) return most;
    const int64_t each = (rows + groups - 1) / groups, blocks = (each + most - 1) / most;
    return round_up((each + blocks - 1) / blocks, kUnit);
}

// Picks elements from a followed by b, at the indices in `from`.
template <class V> SSLK_INLINE V shuffled(V a, V b, V from) {
#ifdef __clang__ // clang finds the instruction for this loop
    constexpr int L = sizeof(V) / sizeof(a[0]);
    V out;
    for (int l = 0; l < L; ++l) out[l] = from[l] < L ? a[from[l]] : b[from[l] - L];
    return out;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

// Transposes L rows of L elements: it interleaves the first half with the second, log2(L) times.
template <class V, int L> SSLK_INLINE void transpose(V (&rows)[L]) {
    V low, high; // the elements that come first when two rows are interleaved, and the rest
    for (int l = 0; l < L; ++l) low[l] = l / 2 + l % 2 * L, high[l] = low[l] + L / 2;
#pragma GCC unroll 4
    for (int done = 1; done < L; done *= 2) {
        V next[L];
#pragma GCC unroll 8
        for (int i = 0; i < L / 2; ++i) {
            next[2 * i] = shuffled(rows[i], rows[i + L / 2], low);
            next[2 * i + 1] = shuffled(rows[i], rows[i + L / 2], high);
        }
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) rows[i] = next[i];
    }
}

// Packs owners for dot_tile as [panel of NR owners][k][NR]. Missing owners are zero.
template <class P, class In>
void pack_lanes(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    constexpr int kChunk = 16, L = kLanes<typename P::Acc>;
    using Bits = typename VectorOf<typename P::Acc>::bits;
    static_assert(P::NR % L == 0 && kChunk % L == 0 && sizeof(typename P::Elem) == sizeof(typename P::Acc));
    const int64_t filled = (d + P::kPack - 1) / P::kPack, steps = steps_for<P>(d);
    for (int64_t n0 = 0; n0 < count; n0 += P::NR, out += steps * P::NR)
        for (int64_t k0 = 0; k0 < steps; k0 += kChunk) {
            const int64_t width = least(steps - k0, kChunk);
            typename P::Elem chunk[P::NR][kChunk];
            for (int n = 0; n < P::NR; ++n) {
                const int64_t there = n0 + n < count ? least(filled - k0, width) : 0;
                if (there == kChunk) { // the compiler knows this size: one or two vectors
                    P::elements(row<In>(rows, first + n0 + n), k0, kChunk, d, chunk[n]);
                } else {
                    memset(chunk[n], 0, sizeof chunk[n]);
                    if (there > 0) P::elements(row<In>(rows, first + n0 + n), k0, there, d, chunk[n]);
                }
            }
            for (int n = 0; n < P::NR; n += L)
                for (int k = 0; k < kChunk; k += L) {
                    Bits square[L];
                    for (int l = 0; l < L; ++l) memcpy(&square[l], &chunk[n + l][k], sizeof(Bits));
                    transpose(square);
                    for (int l = 0; l < L && k + l < width; ++l)
                        memcpy(out + (k0 + k + l) * P::NR + n, &square[l], sizeof(Bits));
                }
        }
}

// Packs others for dot_tile as [panel of NR steps][row][NR]. Zero rows are added up to a multiple of MR.
template <class P, class In>
void pack_others(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    const int64_t filled = (d + P::kPack - 1) / P::kPack, padded = round_up(count, P::MR);
    for (int64_t k0 = 0; k0 < filled; k0 += P::NR, out += kBlock * P::NR) {
        const int64_t width = least(filled - k0, P::NR);
        for (int64_t r = 0; r < count; ++r) {
            typename P::Elem *to = out + r * P::NR;
            P::elements(row<In>(rows, first + r), k0, width, d, to);
            for (int64_t k = width; k < P::NR; ++k) to[k] = 0;
        }
        memset(out + count * P::NR, 0, (padded - count) * P::NR * sizeof(typename P::Elem));
    }
}

// Packs rows for grad_block as [panel of NR features][row / kPack][NR]. Features and rows past the end are zero.
template <class P, class In>
void pack_features(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    for (int64_t f = 0; f < d; f += P::NR, out += kBlock / P::kPack * P::NR) {
        const int64_t width = least(d - f, P::NR), filled = (count + P::kPack - 1) / P::kPack;
        for (int64_t r = 0; r < count; r += P::kPack) {
            const In *in = row<In>(rows, first + r);
            const In *next = r + 1 < count ? row<In>(rows, first + r + 1) : nullptr;
            typename P::Elem *to = out + r / P::kPack * P::NR;
            for (int64_t k = 0; k < width; ++k) to[k] = P::across(in, next, f + k);
            for (int64_t k = width; k < P::NR; ++k) to[k] = 0;
        }
        memset(out + filled * P::NR, 0, (steps_for<P>(count) - filled) * P::NR * sizeof(typename P::Elem));
    }
}

// C[rows][features] += G * packed rows. With ByOwner it reads G transposed, for the gradient of the owners.
template <class P, bool ByOwner>
void grad_block(const typename P::Elem *g, int64_t rows, int64_t steps, const typename P::Elem *packed,
                int64_t features, typename P::Acc *c, int64_t ldc) {
    constexpr bool kDown = ByOwner && !P::kOwnerRows;
    constexpr int64_t am = kDown ? 1 : kBlock / P::kPack, ak = kDown ? kBlock : 1;
    constexpr int lanes = kLanes<typename P::Acc>;
    for (int64_t f = 0; f < features; f += P::NR, packed += kBlock / P::kPack * P::NR) {
        const int vectors = int(least(features - f, P::NR) + lanes - 1) / lanes;
        for (int64_t m = 0; m < rows; m += P::MR)
            grad_tile<P>(g + m * am, am, ak, packed, steps, c + m * ldc + f, ldc, int(least(rows - m, P::MR)), vectors);
    }
}

} // namespace
