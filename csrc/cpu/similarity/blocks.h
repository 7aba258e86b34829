// SPDX-License-Identifier: Apache-2.0
// Lets a block of owners (in vector lanes) meet a block of others: packs both, computes logits tile by tile, and leaves
// out excluded pairs.
#pragma once
#include "../packing.h"
#include "kept.h"

namespace {

// Tiles whose exponentials lie within e^55 of each other share one maximum. Sums and products stay normal in fp32 then.
constexpr double kSharedRange = 55;
// The largest and lowest finite number. A running maximum starts from the lowest. The largest (kNeutral) is the
// log-sum-exp of a row that gets no gradient: its weights are zero.
template <class Acc> constexpr Acc kLargest = sizeof(Acc) == 4 ? Acc(0x1.fffffep127) : Acc(0x1.fffffffffffffp1023);
template <class Acc> constexpr Acc kLowest = -kLargest<Acc>;
template <class Acc> constexpr Acc kNeutral = kLargest<Acc>;

struct Exclusion { // pairs (owner, other) that are left out; an entry of a row names an index on the other side
    const int64_t *by_owner, *by_other;
    int64_t entries;
    bool shared; // whichever table names a pair, both sides leave it out
};

// The tiles of one pair of blocks. A tile is dirty where it holds an excluded pair.
template <class P, class In> struct Tiles {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Session = typename P::Session;
    static constexpr int MR = P::MR, NR = P::NR, L = kLanes<Acc>;

    Rows owners, others;
    int64_t d, steps;
    Acc scale;
    Exclusion exclusion;
    Elem *owner_lanes, *other_rows, *owner_features, *other_features, *by_other, *by_owner;
    bool features;        // a gradient follows, so rows are packed as its right-hand side too
    bool products = true; // blocks are packed for products at once, and not only when pack_products is called
    bool lanes_packed;
    Kept<P> kept;
    int64_t o0, co, i0, ci;
    bool dirty[kBlock / MR][kBlock / NR];

    static int64_t padded(int64_t d) { return round_up(d, NR); }
    static int64_t bytes(int64_t d, bool features) {
        const int64_t side = kBlock * padded(d) * int64_t(sizeof(Elem));
        return side * (features ? 4 : 2) + 2 * kBlock * kBlock * int64_t(sizeof(Acc));
    }
    void use(char *memory) {
        const int64_t side = kBlock * padded(d);
        owner_lanes = reinterpret_cast<Elem *>(memory);
        other_rows = owner_lanes + side;
        owner_features = features ? other_rows + side : nullptr;
        other_features = P::kPack == 1 ? other_rows : features ? owner_features + side : nullptr;
        by_other = other_rows + (features ? 3 : 1) * side;
        by_owner = P::kPack == 1 ? by_other : by_other + kBlock * kBlock;
        steps = steps_for<P>(d);
    }
    void take_owners(int64_t first, int64_t count, bool both) {
        o0 = first, co = count;
        lanes_packed = products;
        if (products) pack_lanes<P, In>(owners, o0, co, d, owner_lanes);
        if (features && both) pack_features<P, In>(owners, o0, co, d, owner_features);
    }
    void take_others(int64_t first, int64_t count) {
        i0 = first, ci = count;
        if (products || P::kPack == 1) pack_others<P, In>(others, i0, ci, d, other_rows);
        if (features && P::kPack > 1) pack_features<P, In>(others, i0, ci, d, other_features);
        memset(dirty, 0, sizeof dirty);
        each_pair(exclusion.by_owner, o0, co, i0, ci, [this](int64_t n, int64_t m) { dirty[m / MR][n / NR] = true; });
        each_pair(exclusion.by_other, i0, ci, o0, co, [this](int64_t m, int64_t n) { dirty[m / MR][n / NR] = true; });
    }
    void pack_products() {
        if (products) return;
        if (!lanes_packed) pack_lanes<P, In>(owners, o0, co, d, owner_lanes);
        if (P::kPack > 1) pack_others<P, In>(others, i0, ci, d, other_rows);
        lanes_packed = true;
    }
    // Calls f(k, l) for every entry of a row first + k that names an index start + l, where l < reach.
    template <class F>
    void each_pair(const int64_t *table, int64_t first, int64_t rows, int64_t start, int64_t reach, F f) const {
        if (!table) return;
        const int64_t E = exclusion.entries, *entry = table + first * E;
        for (int64_t k = 0; k < rows; ++k)
            for (int64_t e = 0; e < E; ++e, ++entry)
                if (uint64_t(*entry - start) < uint64_t(reach)) f(k, *entry - start);
    }
    void tile(int64_t m0, int64_t n0, Acc *t) const {
        const int vectors = int((least(NR, co - n0) + L - 1) / L);
        dot_tile<P>(other_rows + m0 * NR, kBlock * NR, owner_lanes + n0 * steps, steps, t, vectors);
        for (int k = 0; k < MR * NR; k += L) store(t + k, load(t + k) * scale);
    }
    // Clears weights past the last row and lane. Policies of pairs round the number of rows up; those weights meet rows
    // of zeros, and must not be NaN.
    void clear_beyond(int64_t m0, int64_t n0, Acc *g) const {
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        if (P::kPack == 1 || (rows == MR && lanes == NR)) return;
        for (int64_t m = 0; m < MR; ++m)
            for (int64_t n = m < rows ? lanes : 0; n < NR; ++n) g[m * NR + n] = 0;
    }
    bool clean(int64_t m0, int64_t n0) const { return !dirty[m0 / MR][n0 / NR]; }
    int64_t place(int64_t m0, int64_t n0) const { return kept.place(o0, i0, n0, m0); }
    // Copies a tile as its owners see it (own) and, unless null, as the others do (oth). An entry is -inf where that
    // side leaves the pair out, or where there is no row.
    void masked(int64_t m0, int64_t n0, const Acc *t, Acc *own, Acc *oth) const {
        if (own != t) memcpy(own, t, MR * NR * sizeof(Acc));
        if (oth) memcpy(oth, t, MR * NR * sizeof(Acc));
        leave_out(m0, n0, own, oth, -Acc(INFINITY));
    }
    void leave_out(int64_t m0, int64_t n0, Acc *own, Acc *oth, Acc nothing) const {
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        for (int64_t m = 0; m < MR; ++m)
            for (int64_t n = m < rows ? lanes : 0; n < NR; ++n) {
                own[m * NR + n] = nothing;
                if (oth) oth[m * NR + n] = nothing;
            }
        if (clean(m0, n0)) return;
        const bool shared = exclusion.shared;
        each_pair(exclusion.by_owner, o0 + n0, lanes, i0 + m0, rows, [=](int64_t n, int64_t m) {
            own[m * NR + n] = nothing;
            if (oth && shared) oth[m * NR + n] = nothing;
        });
        each_pair(exclusion.by_other, i0 + m0, rows, o0 + n0, lanes, [=](int64_t m, int64_t n) {
            if (oth) oth[m * NR + n] = nothing;
            if (shared) own[m * NR + n] = nothing;
        });
    }
};

} // namespace
