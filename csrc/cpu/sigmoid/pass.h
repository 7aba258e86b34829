// SPDX-License-Identifier: Apache-2.0
// The pass over one pair of blocks: logits tile by tile, the sums of their softplus, and the products of the gradient.
//   owners n in lanes, others m in rows of a tile; sigma_nm = sigmoid(u_nm), or -sigmoid(-u) where n and m are paired
//   sum_n += softplus(u_nm),  G_nm = (a_n + b_m) sigma_nm,  dX_n += G_nm y_m,  dY_m += G_nm x_n   unscaled
// Cost: 2*D operations for the logit of a pair, and 2*D for each side that gets a gradient.
#pragma once
#include "../similarity/blocks.h"
#include "softplus.h"
#include <omp.h>

namespace {

// Holds what one side of the pairs has and gets; null where there is none.
template <class Acc> struct Side {
    const Acc *weights; // of rows
    double *sums;       // of softplus, one for each row
    Acc *moved;         // (rows, ld): the gradient over the scale
};

// The derivatives by scale and bias that one thread found.
struct alignas(64) Slopes {
    double scale, bias;
};

// Pairs whose gradient is not asked for are summed alone (Sloped is false).
template <class P, class In, bool Sloped> struct SigmoidPass : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    Side<Acc> own, oth;
    bool itself, paired, uniform; // uniform: every owner has the weight 1
    Acc bias;
    int64_t ld;
    Slopes *slopes;                                         // of all threads
    Acc lane_weights[kBlock], linear[kBlock], logs[kBlock]; // of the owners' block

    void use(char *memory, int) {
        Base::use(memory);
        if (Sloped) slopes += omp_get_thread_num();
    }
    void begin(int64_t first, int64_t count, bool both) {
        this->take_owners(first, count, both && oth.moved);
        for (int64_t n = 0; Sloped && n < kBlock; ++n)
            lane_weights[n] = n >= count ? Acc(0) : uniform ? Acc(1) : own.weights ? own.weights[o0 + n] : Acc(0);
    }
    void end() {}
    void meet(int64_t first, int64_t count, bool both) {
        this->take_others(first, count);
        memset(linear, 0, sizeof linear), memset(logs, 0, sizeof logs);
        double by_scale = 0, by_bias = 0;
        for (int64_t m0 = 0; m0 < ci; m0 += MR) {
            Vector<Acc> row_sums[P::MR] = {}, along = {}, total = {};
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc products[P::MR * P::NR], u[P::MR * P::NR];
                this->products(m0, n0, products, u);
                const bool crossed = paired && this->crosses(m0, n0);
                if (crossed) turn(m0, n0, u);
                for (int v = 0; v < NR; v += L) {
                    Vector<Acc> line = {}, log = {};
                    for (int m = 0; m < MR; ++m) {
                        Acc *at = u + m * NR + v;
                        const Softplus<Acc> of = softplus<Sloped, Acc>(load(at));
                        line += of.linear, log += of.log;
                        if (oth.sums) row_sums[m] += of.linear + of.log;
                        if (Sloped) store(at, of.slope);
                    }
                    store(linear + n0 + v, load(linear + n0 + v) + line);
                    store(logs + n0 + v, load(logs + n0 + v) + log);
                }
                if (!Sloped) continue;
                if (crossed) turn(m0, n0, u);
                for (int m = 0; m < MR; ++m) {
                    const Acc weight = oth.weights && m0 + m < ci ? oth.weights[i0 + m0 + m] : Acc(0);
                    for (int v = 0; v < NR; v += L) {
                        const Vector<Acc> g = load(u + m * NR + v) * (load(lane_weights + n0 + v) + weight);
                        store(u + m * NR + v, g);
                        along += g * load(products + m * NR + v), total += g;
                    }
                }
                P::keep(u, m0, n0, this->by_other, this->by_owner);
            }
            by_scale += double(sum<Acc>(along)), by_bias += double(sum<Acc>(total));
            if (both && oth.sums)
                for (int64_t m = 0; m < least(MR, ci - m0); ++m) oth.sums[i0 + m0 + m] += double(sum<Acc>(row_sums[m]));
        }
        if (own.sums)
            for (int64_t n = 0; n < co; ++n) own.sums[o0 + n] += double(linear[n]) + double(logs[n]);
        if (!Sloped) return;
        // In x with itself a pair has both rows' weights; it is met once, or on the diagonal in both orders.
        const double share = itself && !both ? 0.5 : 1;
        slopes->scale += share * by_scale, slopes->bias += share * by_bias;
        P::clear_tails(this->by_other, this->by_owner, ci, co);
        if (own.moved)
            grad_block<P, true>(this->by_owner, co, steps_for<P>(ci), this->other_features, this->d,
                                own.moved + o0 * ld, ld);
        if (both && oth.moved)
            grad_block<P, false>(this->by_other, ci, steps_for<P>(co), this->owner_features, this->d,
                                 oth.moved + i0 * ld, ld);
    }
    // Computes a tile of products and of logits. Where there is no row, the product is 0 and the logit -inf.
    SSLK_INLINE void products(int64_t m0, int64_t n0, Acc *products, Acc *u) const {
        const int vectors = int((least(NR, co - n0) + L - 1) / L);
        dot_tile<P>(this->other_rows + m0 * NR, kBlock * NR, this->owner_lanes + n0 * this->steps, this->steps,
                    products, vectors);
        for (int k = 0; k < MR * NR; k += L) store(u + k, load(products + k) * this->scale + bias);
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        if (rows == MR && lanes == NR) return;
        for (int64_t m = 0; m < MR; ++m)
            for (int64_t n = m < rows ? lanes : 0; n < NR; ++n)
                products[m * NR + n] = 0, u[m * NR + n] = -Acc(INFINITY);
    }
    bool crosses(int64_t m0, int64_t n0) const { return i0 + m0 < o0 + n0 + NR && o0 + n0 < i0 + m0 + MR; }
    // Turns the sign where row and owner have the same index.
    void turn(int64_t m0, int64_t n0, Acc *t) const {
        for (int64_t m = 0; m < least(MR, ci - m0); ++m) {
            const int64_t n = i0 + m0 + m - o0 - n0;
            if (n >= 0 && n < least(NR, co - n0)) t[m * NR + n] = -t[m * NR + n];
        }
    }
};

} // namespace
