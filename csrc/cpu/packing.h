// SPDX-License-Identifier: Apache-2.0
// Rows laid out for the register tiles, and the product of a block of weights with packed rows.
#pragma once
#include "amx.h"

namespace {

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Steps of k that `count` elements take, zeros included.
template <class P> constexpr int64_t steps_for(int64_t count) {
    return (count + P::kPack * P::kAlign - 1) / (P::kPack * P::kAlign) * P::kAlign;
}

// Owners for dot_tile: [panel of NR owners][k][NR]; missing owners are zero.
template <class P, class In>
void pack_lanes(const Rows &rows, int64_t first, int64_t count, int64_t d, typename P::Elem *out) {
    constexpr int kChunk = 16;
    const int64_t filled = (d + P::kPack - 1) / P::kPack, steps = steps_for<P>(d);
    for (int64_t n0 = 0; n0 < count; n0 += P::NR, out += steps * P::NR)
        for (int64_t k0 = 0; k0 < steps; k0 += kChunk) {
            const int64_t width = least(steps - k0, kChunk);
            typename P::Elem chunk[P::NR][kChunk] = {};
            for (int n = 0; n < P::NR && n0 + n < count; ++n)
                P::elements(row<In>(rows, first + n0 + n), k0, least(filled - k0, width), d, chunk[n]);
            for (int64_t k = 0; k < width; ++k)
                for (int n = 0; n < P::NR; ++n) out[(k0 + k) * P::NR + n] = chunk[n][k];
        }
}

// Others for dot_tile: [panel of NR steps][row][NR]; rows up to a multiple of MR are zero.
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

// Rows for grad_block: [panel of NR features][row / kPack][NR]; features and rows past the end are zero.
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

// C[rows][features] += G * packed rows. ByOwner reads the weights transposed: owners' gradient.
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
