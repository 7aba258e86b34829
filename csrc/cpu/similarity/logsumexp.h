// SPDX-License-Identifier: Apache-2.0
// Computes row and column log-sum-exp in one pass, as (max, sum) of t = s*<x, y> merged exactly. The (max, sum) of
// owners stay in place while they sweep the others, and those of the others are merged strip by strip. One exponential
// serves both sides where a tile's values lie close together, as they do for unit rows at any usual temperature.
#pragma once
#include "blocks.h"
#include <omp.h>

namespace {

// Adds (m, s) to (M, S), where each pair stands for s * e^m.
template <class Acc> void merge(Acc *M, Acc *S, const Acc *m, const Acc *s, int64_t count) {
    constexpr int L = kLanes<Acc>;
    for (int64_t i = 0; i < count; i += L) {
        const int64_t n = least(L, count - i);
        Acc block[4][L] = {};
        memcpy(block[0], M + i, n * sizeof(Acc));
        memcpy(block[1], S + i, n * sizeof(Acc));
        memcpy(block[2], m + i, n * sizeof(Acc));
        memcpy(block[3], s + i, n * sizeof(Acc));
        const Vector<Acc> old = load(block[0]), add = load(block[2]), top = larger<Acc>(old, add);
        store(block[1], load(block[1]) * expv(old - top) + load(block[3]) * expv(add - top));
        store(block[0], top);
        memcpy(M + i, block[0], n * sizeof(Acc));
        memcpy(S + i, block[1], n * sizeof(Acc));
    }
}

// The pass over one pair of blocks. Tiles whose values lie close together share a maximum (shared_*); the rest of an
// owner's sum is apart (own_*).
template <class P, class In> struct LogSumExp : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    Acc *owner_max, *owner_sum, *other_max, *other_sum; // whole problem
    Acc shared_max[kBlock / P::NR], shared_sum[kBlock], own_max[kBlock], own_sum[kBlock];

    void use(char *memory, int T) {
        Base::use(memory);
        if (this->kept.tiles && omp_get_thread_num() == 0) *this->kept.threads = T;
    }
    void begin(int64_t first, int64_t count, bool both) {
        this->take_owners(first, count, both);
        for (Acc &x : shared_max) x = kLowest<Acc>;
        for (int n = 0; n < kBlock; ++n) own_max[n] = kLowest<Acc>, own_sum[n] = shared_sum[n] = 0;
    }
    void end() {
        Acc maxima[kBlock];
        for (int n = 0; n < kBlock; ++n) maxima[n] = shared_max[n / NR];
        merge(owner_max + o0, owner_sum + o0, maxima, shared_sum, co);
        merge(owner_max + o0, owner_sum + o0, own_max, own_sum, co);
    }
    void meet(int64_t first, int64_t count, bool both) {
        this->take_others(first, count);
        for (int64_t m0 = 0; m0 < ci; m0 += MR) {
            Acc strip_max = kLowest<Acc>, row_max[MR], row_sum[MR];
            Vector<Acc> strip_sum[MR] = {};
            for (int m = 0; m < MR; ++m) row_max[m] = kLowest<Acc>, row_sum[m] = 0;
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc t[P::MR * P::NR];
                this->tile(m0, n0, t);
                Acc top, bottom;
                this->may_vanish() ? range<true>(t, top, bottom) : range<false>(t, top, bottom);
                Acc *left = this->kept.tiles ? this->kept.tiles + this->place(m0, n0) * MR * NR : nullptr;
                const bool alike = this->clean(m0, n0) && top - bottom < Acc(kSharedRange);
                if (left) this->kept.tops[this->place(m0, n0)] = alike ? top : Acc(NAN);
                if (alike)
                    shared(t, top, m0, n0, both, strip_max, strip_sum, left);
                else
                    apart(t, m0, n0, both, row_max, row_sum, left);
            }
            if (!both) continue;
            const int64_t rows = least(MR, ci - m0);
            Acc maxima[MR], sums[MR];
            for (int m = 0; m < MR; ++m) maxima[m] = strip_max, sums[m] = sum<Acc>(strip_sum[m]);
            merge(other_max + i0 + m0, other_sum + i0 + m0, maxima, sums, rows);
            merge(other_max + i0 + m0, other_sum + i0 + m0, row_max, row_sum, rows);
        }
    }
    // Finds the range of the numbers, infinities included and NaN left out. Vanished pairs, at -inf, are left out too:
    // an exponential above any top is zero there.
    template <bool vanishing> static void range(const Acc *t, Acc &top, Acc &bottom) {
        Vector<Acc> high = all<Acc>(kLowest<Acc>), low = all<Acc>(kLargest<Acc>);
        for (int k = 0; k < P::MR * P::NR; k += L) {
            const Vector<Acc> v = load(t + k);
            high = larger<Acc>(v, high);
            low = smaller<Acc>(vanishing ? (v == -Acc(INFINITY) ? all<Acc>(kLargest<Acc>) : v) : v, low);
        }
        top = largest<Acc>(high), bottom = smallest<Acc>(low);
    }
    // Adds a tile whose entries all lie within e^55 of its maximum, so that one exponential serves its row and its
    // column.
    SSLK_INLINE void shared(const Acc *t, Acc top, int64_t m0, int64_t n0, bool both, Acc &strip_max,
                            Vector<Acc> *strip_sum, Acc *left) {
        Vector<Acc> columns[3] = {}, rows[P::MR] = {}, there[3];
        for (int v = 0; v < 3; ++v)
            for (int l = 0; l < L; ++l) there[v][l] = Acc(n0 + v * L + l < co);
        const int valid = int(least(MR, ci - m0));
        for (int m = 0; m < valid; ++m)
            for (int v = 0; v < 3; ++v) {
                const Vector<Acc> e = expv(load(t + m * NR + v * L) - top);
                columns[v] += e * there[v], rows[m] += e * there[v];
                if (left) store(left + m * NR + v * L, e);
            }
        if (left) memset(left + valid * NR, 0, (MR - valid) * NR * sizeof(Acc));
        Acc &maximum = shared_max[n0 / NR];
        Acc keep = 1, add = 1;
        rebase(maximum, top, keep, add);
        for (int v = 0; v < 3; ++v) {
            Acc *at = shared_sum + n0 + v * L;
            store(at, load(at) * keep + columns[v] * add);
        }
        if (!both) return;
        keep = add = 1;
        rebase(strip_max, top, keep, add);
        for (int m = 0; m < MR; ++m) strip_sum[m] = strip_sum[m] * keep + rows[m] * add;
    }
    static void rebase(Acc &maximum, Acc top, Acc &keep, Acc &add) {
        if (top > maximum) {
            keep = exps<Acc>(maximum - top);
            maximum = top;
        } else {
            add = exps<Acc>(top - maximum);
        }
    }
    void apart(const Acc *t, int64_t m0, int64_t n0, bool both, Acc *row_max, Acc *row_sum, Acc *left) {
        if (left) memcpy(left, t, MR * NR * sizeof(Acc));
        Acc own[P::MR * P::NR], oth[P::MR * P::NR];
        this->masked(m0, n0, t, own, both ? oth : nullptr);
        for (int v = 0; v < NR; v += L) {
            const Vector<Acc> old = load(own_max + n0 + v);
            Vector<Acc> top = old;
            for (int m = 0; m < MR; ++m) top = larger<Acc>(top, load(own + m * NR + v));
            Vector<Acc> total = load(own_sum + n0 + v) * expv(old - top);
            for (int m = 0; m < MR; ++m) total += expv(load(own + m * NR + v) - top);
            store(own_max + n0 + v, top);
            store(own_sum + n0 + v, total);
        }
        if (!both) return;
        for (int m = 0; m < MR; ++m) {
            Vector<Acc> high = all<Acc>(row_max[m]), total = {};
            for (int v = 0; v < NR; v += L) high = larger<Acc>(high, load(oth + m * NR + v));
            const Acc top = largest<Acc>(high);
            for (int v = 0; v < NR; v += L) total += expv(load(oth + m * NR + v) - top);
            row_sum[m] = row_sum[m] * exps<Acc>(row_max[m] - top) + sum<Acc>(total);
            row_max[m] = top;
        }
    }
};

} // namespace
