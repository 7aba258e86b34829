// SPDX-License-Identifier: Apache-2.0
// Lets a block of owners (in vector lanes) meet a block of others: packs both, computes logits tile by tile, and leaves
// out excluded pairs.
#pragma once
#include "../packing.h"
#include "kept.h"
#include "kernels.h"

namespace {

using sslkernels::Diagonals;

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
    bool shared; // whichever side names a pair, both leave it out
    Diagonals of_owners{}, of_others{};
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
    const Acc *owner_bias = nullptr, *other_bias = nullptr; // added to the logits of each owner, and of each other
    Exclusion exclusion;
    const int64_t *owner_labels = nullptr, *other_labels = nullptr; // pairs are left out whose labels are alike,
    bool alike = true;                                              // or those whose labels are not
    Elem *owner_lanes, *other_rows, *owner_features, *other_features, *by_other, *by_owner;
    bool features;        // a gradient follows, so rows are packed as its right-hand side too
    bool products = true; // blocks are packed for products at once, and not only when pack_products is called
    bool lanes_packed;
    Kept<P> kept;
    int64_t o0, co, i0, ci;
    bool dirty[kBlock / MR][kBlock / NR];
    Acc lane_bias[kBlock], row_bias[kBlock]; // of these blocks; zeros where there is none
    int64_t lane_labels[kBlock], row_labels[kBlock];

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
        take(owner_bias, o0, co, lane_bias), take(owner_labels, o0, co, lane_labels);
        if (products) pack_lanes<P, In>(owners, o0, co, d, owner_lanes);
        if (features && both) pack_features<P, In>(owners, o0, co, d, owner_features);
    }
    void take_others(int64_t first, int64_t count) {
        i0 = first, ci = count;
        take(other_bias, i0, ci, row_bias), take(other_labels, i0, ci, row_labels);
        if (products || P::kPack == 1) pack_others<P, In>(others, i0, ci, d, other_rows);
        if (features && P::kPack > 1) pack_features<P, In>(others, i0, ci, d, other_features);
        memset(dirty, 0, sizeof dirty);
        by_owners(o0, co, i0, ci, [this](int64_t n, int64_t m) { dirty[m / MR][n / NR] = true; });
        by_others(i0, ci, o0, co, [this](int64_t m, int64_t n) { dirty[m / MR][n / NR] = true; });
    }
    void pack_products() {
        if (products) return;
        if (!lanes_packed) pack_lanes<P, In>(owners, o0, co, d, owner_lanes);
        if (P::kPack > 1) pack_others<P, In>(others, i0, ci, d, other_rows);
        lanes_packed = true;
    }
    // Calls f(k, l) for every row first + k that leaves out an index start + l, where l < reach.
    template <class F> void by_owners(int64_t first, int64_t rows, int64_t start, int64_t reach, F f) const {
        each_pair(exclusion.by_owner, exclusion.of_owners, first, rows, start, reach, f);
    }
    template <class F> void by_others(int64_t first, int64_t rows, int64_t start, int64_t reach, F f) const {
        each_pair(exclusion.by_other, exclusion.of_others, first, rows, start, reach, f);
    }
    template <class F>
    void each_pair(const int64_t *table, const Diagonals &on, int64_t first, int64_t rows, int64_t start, int64_t reach,
                   F f) const {
        if (table) {
            const int64_t E = exclusion.entries, *entry = table + first * E;
            for (int64_t k = 0; k < rows; ++k)
                for (int64_t e = 0; e < E; ++e, ++entry)
                    if (uint64_t(*entry - start) < uint64_t(reach)) f(k, *entry - start);
        }
        if (!on.views) return;
        for (int64_t k = 0; k < rows; ++k) {
            const int64_t least_index = on.start + (on.first + first + k) % on.step - start;
            const int64_t skipped = least_index < 0 ? (on.step - 1 - least_index) / on.step : 0;
            for (int64_t v = skipped, l = least_index + skipped * on.step; v < on.views && l < reach; ++v, l += on.step)
                f(k, l);
        }
    }
    void tile(int64_t m0, int64_t n0, Acc *t) const {
        const int vectors = int((least(NR, co - n0) + L - 1) / L);
        dot_tile<P>(other_rows + m0 * NR, kBlock * NR, owner_lanes + n0 * steps, steps, t, vectors);
        for (int k = 0; k < MR * NR; k += L) store(t + k, load(t + k) * scale);
        if (owner_bias || other_bias)
            for (int m = 0; m < MR; ++m)
                for (int v = 0; v < NR; v += L) {
                    Acc *at = t + m * NR + v;
                    store(at, load(at) + (load(lane_bias + n0 + v) + row_bias[m0 + m]));
                }
        leave_out_labels(m0, n0, t, -Acc(INFINITY));
    }
    template <class T> static void take(const T *given, int64_t first, int64_t count, T *taken) {
        if (!given) return;
        for (int64_t k = 0; k < kBlock; ++k) taken[k] = k < count ? given[first + k] : T(0);
    }
    // Says whether logits may be -inf although the rows are finite.
    bool may_vanish() const { return owner_labels || owner_bias || other_bias; }
    void leave_out_labels(int64_t m0, int64_t n0, Acc *t, Acc nothing) const {
        if (!owner_labels) return;
        for (int m = 0; m < MR; ++m)
            for (int n = 0; n < NR; ++n)
                if ((lane_labels[n0 + n] == row_labels[m0 + m]) == alike) t[m * NR + n] = nothing;
    }
    // Clears weights past the last row and lane. Policies of pairs round the number of rows up; those weights meet rows
    // of zeros, and must not be NaN.
    void clear_beyond(int64_t m0, int64_t n0, Acc *g) const {
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        if (P::kPack == 1 || (rows == MR && lanes == NR)) return;
        for (int64_t m = 0; m < MR; ++m)
            for (int64_t n = m < rows ? lanes : 0; n < NR; ++n) g[m * NR + n] = 0;
    }
    // Returns how many lanes the vectors with an owner have, and clears the weights of the others.
    int filled(int64_t n0, Acc *g) const {
        const int lanes = int(least(NR, round_up(co - n0, L)));
        for (int m = 0; m < MR; ++m)
            for (int v = lanes; v < NR; v += L) store(g + m * NR + v, Vector<Acc>{});
        return lanes;
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
        leave_out_labels(m0, n0, own, nothing);
        if (oth) leave_out_labels(m0, n0, oth, nothing);
        if (clean(m0, n0)) return;
        const bool shared = exclusion.shared;
        by_owners(o0 + n0, lanes, i0 + m0, rows, [=](int64_t n, int64_t m) {
            own[m * NR + n] = nothing;
            if (oth && shared) oth[m * NR + n] = nothing;
        });
        by_others(i0 + m0, rows, o0 + n0, lanes, [=](int64_t m, int64_t n) {
            if (oth) oth[m * NR + n] = nothing;
            if (shared) own[m * NR + n] = nothing;
        });
    }
};

} // namespace
