// SPDX-License-Identifier: Apache-2.0
// Computes the gradient without the matrix: dX += G*Y and dY += G^T*X, unscaled, with
//   G = a_i e^(t - lse_i) + b_j e^(t - lse_j)
#pragma once
#include "blocks.h"

namespace {

// One side's part of the gradient. Its weights are grad * e^(t - lse).
template <class Acc> struct Side {
    Acc *lse, *grad; // lse is kNeutral for a row that gets no gradient
    Acc *moved;      // (rows, ld): where the unscaled gradient is summed, or null
    Acc *total;      // (rows,): where the weights of each row are summed, or null
};

template <class P, class In> struct Gradient : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    Side<Acc> own, oth;
    int64_t ld;

    void use(char *memory, int T) {
        Base::use(memory);
        const Kept<P> &kept = this->kept;
        if (kept.tiles && kept.of.triangle && *kept.threads != T) this->kept = {};
        this->products = !this->kept.tiles;
    }
    void begin(int64_t first, int64_t count, bool both) { this->take_owners(first, count, both); }
    void end() {}
    void meet(int64_t first, int64_t count, bool both) {
        this->take_others(first, count);
        Acc low = kNeutral<Acc>, high = kLowest<Acc>;
        const bool finite = widen_range(own, o0, co, low, high) & widen_range(oth, i0, ci, low, high);
        const bool nothing = finite && high == kLowest<Acc>; // no row of these blocks gets a gradient
        if (nothing && finite_rows(this->owners, o0, co) && finite_rows(this->others, i0, ci)) return;
        const bool narrow_range = finite && !nothing && high - low < Acc(kSharedRange);
        if (!narrow_range) this->pack_products(); // exponentials that were kept do not tell the logits
        const Acc middle = narrow_range ? low + (high - low) / 2 : Acc(0);
        Weights a(own, o0, co, middle), b(oth, i0, ci, middle);
        for (int64_t m0 = 0; m0 < ci; m0 += MR)
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc g[P::MR * P::NR];
                const bool alike = narrow_range && this->clean(m0, n0);
                const Acc *left = this->kept.tiles ? this->kept.tiles + this->place(m0, n0) * MR * NR : nullptr;
                const Acc top = left ? this->kept.tops[this->place(m0, n0)] : Acc(NAN);
                if (alike && top == top) {
                    shared_kept(g, left, top - middle, a.shifted + n0, b.shifted + m0);
                } else {
                    if (left && top != top)
                        memcpy(g, left, sizeof g);
                    else
                        this->tile(m0, n0, g);
                    if (alike)
                        shared(g, middle, a.shifted + n0, b.shifted + m0);
                    else
                        apart(g, m0, n0, a, b);
                }
                if (alike) this->clear_beyond(m0, n0, g);
                if (own.total || oth.total) add_up(g, m0, n0);
                P::keep(g, m0, n0, this->by_other, this->by_owner);
            }
        P::clear_tails(this->by_other, this->by_owner, ci, co);
        grad_block<P, true>(this->by_owner, co, steps_for<P>(ci), this->other_features, this->d, own.moved + o0 * ld,
                            ld);
        if (both)
            grad_block<P, false>(this->by_other, ci, steps_for<P>(co), this->owner_features, this->d,
                                 oth.moved + i0 * ld, ld);
    }
    void add_up(const Acc *g, int64_t m0, int64_t n0) const {
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        for (int64_t m = 0; m < rows; ++m)
            for (int64_t n = 0; n < lanes; ++n) {
                if (own.total) own.total[o0 + n0 + n] += g[m * NR + n];
                if (oth.total) oth.total[i0 + m0 + m] += g[m * NR + n];
            }
    }
    // Says whether all rows are finite. Zero weights times finite rows are zero, and times others NaN.
    bool finite_rows(const Rows &rows, int64_t first, int64_t count) const {
        Acc zeros = 0;
        for (int64_t i = first; i < first + count; ++i) {
            const In *in = row<In>(rows, i);
            for (int64_t k = 0; k < this->d; ++k) zeros += widen<Acc>(in[k]) * 0;
        }
        return zeros == 0;
    }
    static bool widen_range(const Side<Acc> &side, int64_t first, int64_t count, Acc &low, Acc &high) {
        bool finite = true;
        for (int64_t i = first; side.lse && i < first + count; ++i) {
            const Acc x = side.lse[i];
            if (x == kNeutral<Acc>) continue;
            finite &= x - x == 0;
            low = x < low ? x : low;
            high = x > high ? x : high;
        }
        return finite;
    }
    // The weights of one block of a side: shifted = grad * e^(middle - lse). Rows past its end are neutral.
    struct Weights {
        Acc lse[kBlock], grad[kBlock], shifted[kBlock];
        Weights(const Side<Acc> &side, int64_t first, int64_t count, Acc middle) {
            for (int i = 0; i < kBlock; ++i) {
                const bool there = side.lse && i < count;
                lse[i] = there ? side.lse[first + i] : kNeutral<Acc>;
                grad[i] = there ? side.grad[first + i] : Acc(0);
            }
            for (int i = 0; i < kBlock; i += L) store(shifted + i, load(grad + i) * expv(middle - load(lse + i)));
        }
    };
    static SSLK_INLINE void shared(Acc *g, Acc middle, const Acc *a, const Acc *b) {
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L) {
                // Where neither side gets a gradient, t may exceed both sums. e^t meets a zero there and must be
                // finite.
                const Vector<Acc> e = expv(smaller<Acc>(all<Acc>(Acc(70)), load(g + m * NR + v) - middle));
                store(g + m * NR + v, e * (load(a + v) + b[m]));
            }
    }
    // Turns the forward's e^(t - top) into e^(t - middle). A pair with a gradient has t < middle + 28, and top is at
    // most 55 above its t. A larger shift meets zeros alone, and the bound of 85 keeps the product finite.
    static SSLK_INLINE void shared_kept(Acc *g, const Acc *left, Acc shift, const Acc *a, const Acc *b) {
        const Acc factor = exps<Acc>(shift < Acc(85) ? shift : Acc(85));
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L)
                store(g + m * NR + v, load(left + m * NR + v) * factor * (load(a + v) + b[m]));
    }
    // Pairs left out get zeros at the end, because e^(-inf - lse) would be NaN where lse is.
    void apart(Acc *g, int64_t m0, int64_t n0, const Weights &a, const Weights &b) const {
        Acc mine[P::MR * P::NR], theirs[P::MR * P::NR];
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L) {
                const int k = m * NR + v;
                const Vector<Acc> t = load(g + k);
                store(mine + k, load(a.grad + n0 + v) * expv(t - load(a.lse + n0 + v)));
                store(theirs + k, b.grad[m0 + m] * expv(t - b.lse[m0 + m]));
            }
        this->leave_out(m0, n0, mine, theirs, Acc(0));
        for (int k = 0; k < MR * NR; k += L) store(g + k, load(mine + k) + load(theirs + k));
    }
};

} // namespace
