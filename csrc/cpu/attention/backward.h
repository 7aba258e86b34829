// SPDX-License-Identifier: Apache-2.0
// Computes the gradients without the matrix. With t the logits, P = e^(t - lse) and delta_i = <dO_i, O_i>:
//   dS_ij = P_ij (<dO_i, v_j> - delta_i)
//   moved queries += dS*K,  moved keys += dS^T*Q,  dV += P^T*dO,  dbias += column sums of dS
// Where both sides get a gradient, a pair of blocks serves both, and the longer side owns: its blocks fill the vectors.
// Else the side with a gradient owns. Cost: 2*N*M*D operations for the logits, 2*N*M*Dv for dS, and 2*N*M times the
// features of each sum.
#pragma once
#include "forward.h"

namespace {

using sslkernels::AttentionGrad;

// Says in which type rows of dO are read: policies of pairs multiply bfloat16 alone.
template <class P> struct GradRow {
    using type = typename P::Acc;
};
#if defined(__AVX512BF16__)
template <> struct GradRow<Pairs> {
    using type = bf16;
};
#endif
#if defined(SSLK_MATRIX)
template <> struct GradRow<Matrix> {
    using type = bf16;
};
#endif

template <class P, class In> struct AttentionBack : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Grad = typename GradRow<P>::type;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    bool swap;   // keys own
    bool slopes; // dS is wanted
    Rows values, grads;
    const Acc *lse, *delta; // of the queries
    int64_t dv, ld, value_ld;
    Acc *moved_queries, *moved_keys, *dvalues, *dbias; // null where not wanted

    // The second product, <dO, v>, of owners in lanes and others in rows; the features of dO; the weights P.
    Elem *second_lanes, *second_rows, *grad_features, *p_by_other, *p_by_owner;
    int64_t second_steps;
    // These belong to the rows of the two blocks. The side of the keys has zeros.
    Acc lane_lse[kBlock], row_lse[kBlock], lane_delta[kBlock], row_delta[kBlock];

    static int64_t bytes(int64_t d, int64_t dv) {
        return round_up(Base::bytes(d, true), 64) + 3 * kBlock * Base::padded(dv) * int64_t(sizeof(Elem)) +
               2 * kBlock * kBlock * int64_t(sizeof(Elem));
    }
    void use(char *memory, int) {
        Base::use(memory);
        const int64_t side = kBlock * Base::padded(dv);
        second_lanes = reinterpret_cast<Elem *>(memory + round_up(Base::bytes(this->d, true), 64));
        second_rows = second_lanes + side;
        grad_features = second_rows + side;
        p_by_other = grad_features + side;
        p_by_owner = P::kPack == 1 ? p_by_other : p_by_other + kBlock * kBlock;
        second_steps = steps_for<P>(dv);
    }
    void begin(int64_t first, int64_t count, bool) {
        this->take_owners(first, count, met());
        take(!swap, first, count, lane_lse, lane_delta);
        if (slopes && swap) pack_lanes<P, In>(values, first, count, dv, second_lanes);
        if (slopes && !swap) pack_lanes<P, Grad>(grads, first, count, dv, second_lanes);
        if (dvalues && !swap) pack_features<P, Grad>(grads, first, count, dv, grad_features);
    }
    void end() {}
    Acc *met() const { return swap ? moved_queries : moved_keys; } // the gradient of the others
    // Takes lse and delta of the rows of a block of queries. Where a row has nothing left, its weights are zero.
    void take(bool of_queries, int64_t first, int64_t count, Acc *lses, Acc *deltas) const {
        for (int64_t k = 0; k < kBlock; ++k) {
            const bool there = of_queries && k < count;
            lses[k] = !there ? Acc(0) : lse[first + k] == -Acc(INFINITY) ? kNeutral<Acc> : lse[first + k];
            deltas[k] = there && slopes ? delta[first + k] : Acc(0);
        }
    }
    void meet(int64_t first, int64_t count, bool) {
        this->take_others(first, count);
        take(swap, first, count, row_lse, row_delta);
        if (slopes && swap) pack_others<P, Grad>(grads, first, count, dv, second_rows);
        if (slopes && !swap) pack_others<P, In>(values, first, count, dv, second_rows);
        if (dvalues && swap) pack_features<P, Grad>(grads, first, count, dv, grad_features);
        weigh();
        const int64_t others = steps_for<P>(ci), owners = steps_for<P>(co);
        Acc *own = swap ? moved_keys : moved_queries;
        if (slopes) P::clear_tails(this->by_other, this->by_owner, ci, co);
        if (own) grad_block<P, true>(this->by_owner, co, others, this->other_features, this->d, own + o0 * ld, ld);
        if (met()) grad_block<P, false>(this->by_other, ci, owners, this->owner_features, this->d, met() + i0 * ld, ld);
        if (!dvalues) return;
        P::clear_tails(p_by_other, p_by_owner, ci, co);
        if (swap)
            grad_block<P, true>(p_by_owner, co, others, grad_features, dv, dvalues + o0 * value_ld, value_ld);
        else
            grad_block<P, false>(p_by_other, ci, owners, grad_features, dv, dvalues + i0 * value_ld, value_ld);
    }
    // Computes the weights P and dS of all tiles, and adds up dS for the bias.
    void weigh() {
        for (int64_t m0 = 0; m0 < ci; m0 += MR) {
            Vector<Acc> row_sums[P::MR] = {};
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc p[P::MR * P::NR], ds[P::MR * P::NR];
                this->tile(m0, n0, p);
                const int filled = this->filled(n0, p);
                if (slopes) {
                    dot_tile<P>(second_rows + m0 * NR, kBlock * NR, second_lanes + n0 * second_steps, second_steps, ds,
                                filled / L);
                    this->filled(n0, ds);
                }
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < filled; v += L) {
                        Acc *at = p + m * NR + v, *slope = ds + m * NR + v;
                        const Vector<Acc> e = expv(load(at) - (load(lane_lse + n0 + v) + row_lse[m0 + m]));
                        store(at, e);
                        if (slopes) store(slope, e * (load(slope) - (load(lane_delta + n0 + v) + row_delta[m0 + m])));
                    }
                if (!this->clean(m0, n0) || m0 + MR > ci || n0 + NR > co)
                    this->leave_out(m0, n0, p, slopes ? ds : nullptr, Acc(0));
                if (dvalues) P::keep(p, m0, n0, p_by_other, p_by_owner);
                if (!slopes) continue;
                P::keep(ds, m0, n0, this->by_other, this->by_owner);
                if (dbias) add_to_bias(ds, n0, row_sums);
            }
            for (int64_t m = 0; dbias && !swap && m < least(MR, ci - m0); ++m)
                dbias[i0 + m0 + m] += sum<Acc>(row_sums[m]);
        }
    }
    void add_to_bias(const Acc *ds, int64_t n0, Vector<Acc> *row_sums) const {
        Acc lanes[P::NR] = {};
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L) {
                const Vector<Acc> x = load(ds + m * NR + v);
                row_sums[m] += x;
                store(lanes + v, load(lanes + v) + x);
            }
        for (int64_t n = 0; swap && n < least(NR, co - n0); ++n) dbias[o0 + n0 + n] += lanes[n];
    }
};

template <class P, class In> bool attention_back_typed(const Attention &a, const AttentionGrad &g) {
    using Acc = typename P::Acc;
    using Job = AttentionBack<P, In>;
    using Grad = typename Job::Grad;
    constexpr bool kRounded = P::kPack > 1; // dO is rounded before it is multiplied
    const int64_t n = a.queries.count, m = a.keys.count;
    const bool both = g.moved_queries && (g.moved_keys || g.dvalues || g.dbias);
    const bool swap = both ? m > n : !g.moved_queries;
    const Rows owners = swap ? a.keys : a.queries, others = swap ? a.queries : a.keys;
    const Plan p =
        plan<P>(both ? Meeting::kBothSides : Meeting::kOneSide, owners.count, others.count, a.d + a.dv, a.threads);
    const int64_t each = round_up(Job::bytes(a.d, a.dv), 64);
    RowSums<Acc> moved_queries(g.moved_queries, n, a.d), moved_keys(g.moved_keys, m, a.d), dvalues(g.dvalues, m, a.dv);
    RowSums<Acc> *const sums[] = {&moved_queries, &moved_keys, &dvalues};
    Memory memory(each * p.threads + n * int64_t(sizeof(Acc)) + moved_queries.bytes() + moved_keys.bytes() +
                  dvalues.bytes() + (kRounded ? n * a.dv * int64_t(sizeof(Grad)) + 64 : 0) + 512);
    if (!memory.data) return false;
    char *scratch = memory.take(each * p.threads);
    for (RowSums<Acc> *each_sum : sums) each_sum->use(memory), each_sum->clear(p.threads);
    if (g.dbias) memset(g.dbias, 0, m * sizeof(Acc));
    Job job{};
    job.swap = swap, job.slopes = g.moved_queries || g.moved_keys || g.dbias;
    job.owners = owners, job.others = others, job.values = a.values, job.d = a.d, job.dv = a.dv;
    job.scale = Acc(a.scale), job.features = true;
    (swap ? job.owner_bias : job.other_bias) = static_cast<const Acc *>(a.bias);
    job.exclusion = {swap ? nullptr : a.exclude, swap ? a.exclude : nullptr, a.excluded, true};
    job.ld = round_up(a.d, kLanes<Acc>), job.value_ld = dvalues.ld;
    job.moved_queries = moved_queries.at, job.moved_keys = moved_keys.at, job.dvalues = dvalues.at;
    job.dbias = static_cast<Acc *>(g.dbias), job.lse = static_cast<const Acc *>(g.lse);
    const Acc *grad = static_cast<const Acc *>(g.grad), *out = static_cast<const Acc *>(g.out);
    Acc *delta = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    Grad *rounded = kRounded ? reinterpret_cast<Grad *>(memory.take(n * a.dv * int64_t(sizeof(Grad)))) : nullptr;
    job.delta = delta, job.grads = {kRounded ? static_cast<const void *>(rounded) : grad, a.dv, n};
    // We take delta from dO as it is multiplied, so that the slopes of a row add up to zero.
#pragma omp parallel for schedule(static) num_threads(p.threads)
    for (int64_t i = 0; i < n; ++i) {
        const Acc *from = grad + i * a.dv;
        for (int64_t k = 0; kRounded && k < a.dv; ++k) rounded[i * a.dv + k] = narrow<Grad>(from[k]);
        delta[i] = dot<Acc>(row<Grad>(job.grads, i), out + i * a.dv, a.dv);
    }
    run(job, p.meeting, {owners.count, p.owner_block}, {others.count, p.other_block}, p.threads, scratch, each);
    for (const RowSums<Acc> *each_sum : sums) each_sum->finish();
    return true;
}

} // namespace
