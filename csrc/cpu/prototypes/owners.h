// SPDX-License-Identifier: Apache-2.0
// Holds a block of prototypes in vector lanes, and computes the logits of rows with it: tile by tile, and for the peaks
// and totals of their softmaxes.
// Cost: 2*D operations for a logit, and one exponential where it is measured.
#pragma once
#include "../lanes.h"
#include "../packing.h"
#include "rows.h"

namespace {

template <class Acc> inline Acc sum_of(Vector<Acc> v) {
    Acc lanes[kLanes<Acc>];
    store(lanes, v);
    return sum_by_halves<kLanes<Acc>>(lanes);
}

template <class P> struct Owners {
    using Acc = typename P::Acc;
    static constexpr int MR = P::MR, NR = P::NR, L = kLanes<Acc>;
    typename P::Elem *packed;
    Acc *bias;                   // (kBlock,), or null
    int64_t steps, count, width; // width: of kept logits, in lanes
    Acc scale;

    template <class In> void take(const Rows &weight, const Acc *given, int64_t first, int64_t rows, int64_t d) {
        pack_lanes<P, In>(weight, first, rows, d, packed);
        for (int64_t k = 0; bias && k < kBlock; ++k) bias[k] = k < rows ? given[first + k] : Acc(0);
    }
    // Computes the logits of MR rows with up to NR prototypes, or reads those that were kept.
    void logits(const typename P::Elem *rows, const Acc *kept, int64_t m0, int64_t n0, Acc *t) const {
        if (kept) {
            memcpy(t, kept + m0 * width + n0 * MR, MR * NR * sizeof(Acc));
            return;
        }
        dot_tile<P>(rows + m0 * NR, kBlock * NR, packed + n0 * steps, steps, t,
                    int((least(NR, count - n0) + L - 1) / L));
        for (int k = 0; k < MR * NR; k += L) store(t + k, load(t + k) * scale);
        for (int m = 0; bias && m < MR; ++m)
            for (int v = 0; v < NR; v += L) store(t + m * NR + v, load(t + m * NR + v) + load(bias + n0 + v));
    }
    // Fills the lanes past the last prototype, with one number for each row.
    template <class F> void fill_beyond(int64_t n0, Acc *t, F number) const {
        for (int m = 0; count - n0 < NR && m < MR; ++m)
            for (int64_t n = count - n0; n < NR; ++n) t[m * NR + n] = number(m);
    }
    // Takes the logits of rows into their peaks and totals, and keeps them unless `kept` is null.
    void measure(const typename P::Elem *others, int64_t rows, Acc *kept, Acc *top, double *total) const {
        for (int64_t m0 = 0; m0 < rows; m0 += MR) {
            Acc t[kBlock / NR * P::MR * P::NR], *strip = kept ? kept + m0 * width : t;
            Vector<Acc> most[MR];
            for (auto &x : most) x = all<Acc>(kLowestLogit<Acc>);
            for (int64_t n0 = 0; n0 < count; n0 += NR) {
                Acc *at = strip + n0 * MR;
                logits(others, nullptr, m0, n0, at);
                fill_beyond(n0, at, [](int) { return -Acc(INFINITY); });
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < NR; v += L) most[m] = larger<Acc>(most[m], load(at + m * NR + v));
            }
            for (int m = 0; m < least(MR, rows - m0); ++m) {
                const Acc before = top[m0 + m], here = largest_of(most[m]);
                if (here > before) {
                    total[m0 + m] *= double(exps<Acc>(before - here));
                    top[m0 + m] = here;
                }
                double found = exponentials<false>(strip, m, top[m0 + m]);
                // The digits of a sum that is hardly more than the one of its peak are all in what is beside it.
                if (here == top[m0 + m] && found < 2) found = exponentials<true>(strip, m, here);
                total[m0 + m] += found;
            }
        }
    }
    // Sums e^(x - peak) over the logits of a row; those that are 1 are summed apart from smaller ones with kApart.
    template <bool kApart> double exponentials(const Acc *strip, int m, Acc peak) const {
        Vector<Acc> sum{}, ones{};
        for (int64_t n0 = 0; n0 < count; n0 += NR)
            for (int v = 0; v < NR; v += L) {
                const Vector<Acc> e = expv(load(strip + n0 * MR + m * NR + v) - peak);
                const Vector<Acc> one = kApart ? (e == all<Acc>(1) ? e : Vector<Acc>{}) : Vector<Acc>{};
                ones += one, sum += e - one;
            }
        return double(sum_of<Acc>(ones)) + double(sum_of<Acc>(sum));
    }
    static Acc largest_of(Vector<Acc> v) {
        Acc lanes[L];
        store(lanes, v);
        for (int width = L / 2; width; width /= 2)
            for (int l = 0; l < width; ++l) lanes[l] = lanes[l] > lanes[l + width] ? lanes[l] : lanes[l + width];
        return lanes[0];
    }
};

} // namespace
