// SPDX-License-Identifier: Apache-2.0
// Computes row log-sum-exp and, where it is wanted, softmax(S)*Y in one pass, as attention does. The second is the
// gradient of the rows where the keys are frozen. Owners' sums are rescaled when their maximum moves. Cost: 4*N*M*D
// operations, 2*N*M*D for the first alone, which has the same bits either way.
#pragma once
#include "blocks.h"
#include <omp.h>

namespace {

template <class P, class In> struct Attend : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0;

    Acc *owner_max, *owner_sum, *attended; // attended: (owners, ld), or null
    int64_t ld;
    Acc *logits; // kBlock x kBlock for each thread

    void use(char *memory, int) {
        Base::use(memory);
        logits += int64_t(omp_get_thread_num()) * kBlock * kBlock;
    }
    void begin(int64_t first, int64_t count, bool both) { this->take_owners(first, count, both); }
    void end() {
        if (!attended) return;
        for (int64_t n = o0; n < o0 + co; ++n) {
            const Acc inverse = owner_sum[n] == 0 ? Acc(0) : 1 / owner_sum[n];
            for (int64_t k = 0; k < this->d; ++k) attended[n * ld + k] *= inverse;
        }
    }
    void meet(int64_t first, int64_t count, bool) {
        this->take_others(first, count);
        Acc top[kBlock], total[kBlock] = {};
        for (int n = 0; n < kBlock; ++n) top[n] = n < co ? owner_max[o0 + n] : kLowest<Acc>;
        const int64_t strips = round_up(ci, MR), lanes = round_up(co, NR);
        for (int64_t m0 = 0; m0 < strips; m0 += MR)
            for (int64_t n0 = 0; n0 < lanes; n0 += NR) {
                Acc t[P::MR * P::NR];
                this->tile(m0, n0, t);
                if (!this->clean(m0, n0) || m0 + MR > ci) this->masked(m0, n0, t, t, nullptr);
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < NR; v += L) {
                        const Vector<Acc> x = load(t + m * NR + v);
                        store(logits + (m0 + m) * kBlock + n0 + v, x);
                        store(top + n0 + v, larger<Acc>(load(top + n0 + v), x));
                    }
            }
        for (int64_t m0 = 0; m0 < strips; m0 += MR)
            for (int64_t n0 = 0; n0 < lanes; n0 += NR) {
                Acc g[P::MR * P::NR];
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < NR; v += L) {
                        const Vector<Acc> e = expv(load(logits + (m0 + m) * kBlock + n0 + v) - load(top + n0 + v));
                        store(g + m * NR + v, e);
                        store(total + n0 + v, load(total + n0 + v) + e);
                    }
                if (attended) P::keep(g, m0, n0, this->by_other, this->by_owner);
            }
        for (int64_t n = 0; n < co; ++n) {
            const Acc factor = exps<Acc>(owner_max[o0 + n] - top[n]);
            owner_sum[o0 + n] = owner_sum[o0 + n] * factor + total[n];
            owner_max[o0 + n] = top[n];
            if (attended && factor != 1)
                for (int64_t k = 0; k < this->d; ++k) attended[(o0 + n) * ld + k] *= factor;
        }
        if (!attended) return;
        P::clear_tails(this->by_other, this->by_owner, ci, co);
        grad_block<P, true>(this->by_owner, co, steps_for<P>(ci), this->other_features, this->d, attended + o0 * ld,
                            ld);
    }
};

} // namespace
