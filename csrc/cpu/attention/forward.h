// SPDX-License-Identifier: Apache-2.0
// Computes softmax(S) * V and the log-sum-exp of each row in one pass. Queries lie in lanes and own their sums, which
// are rescaled when their maximum moves. Cost: 2*N*M*(D + Dv) operations.
#pragma once
#include "../memory.h"
#include "../similarity/schedule.h"
#include "kernels.h"

namespace {

using sslkernels::Attended;
using sslkernels::Attention;

template <class P, class In> struct Attending : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0;

    Rows values;
    int64_t dv, ld;
    Acc *owner_max, *owner_sum, *attended; // attended: (owners, ld)
    Acc *logits;                           // kBlock x kBlock
    Elem *value_features;

    static int64_t bytes(int64_t d, int64_t dv) {
        return round_up(Base::bytes(d, false), 64) + kBlock * kBlock * int64_t(sizeof(Acc)) +
               kBlock * Base::padded(dv) * int64_t(sizeof(Elem));
    }
    void use(char *memory, int) {
        Base::use(memory);
        logits = reinterpret_cast<Acc *>(memory + round_up(Base::bytes(this->d, false), 64));
        value_features = reinterpret_cast<Elem *>(logits + kBlock * kBlock);
    }
    void begin(int64_t first, int64_t count, bool) {
        this->take_owners(first, count, false);
        for (int64_t n = o0; n < o0 + co; ++n) owner_max[n] = kLowest<Acc>, owner_sum[n] = 0;
        memset(attended + o0 * ld, 0, co * ld * sizeof(Acc));
    }
    void end() {
        for (int64_t n = o0; n < o0 + co; ++n) {
            const Acc inverse = owner_sum[n] == 0 ? Acc(0) : 1 / owner_sum[n];
            for (int64_t k = 0; k < dv; ++k) attended[n * ld + k] *= inverse;
        }
    }
    void meet(int64_t first, int64_t count, bool) {
        this->take_others(first, count);
        pack_features<P, In>(values, first, count, dv, value_features);
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
                const int filled = this->filled(n0, g);
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < filled; v += L) {
                        const Vector<Acc> e = expv(load(logits + (m0 + m) * kBlock + n0 + v) - load(top + n0 + v));
                        store(g + m * NR + v, e);
                        store(total + n0 + v, load(total + n0 + v) + e);
                    }
                P::keep(g, m0, n0, this->by_other, this->by_owner);
            }
        for (int64_t n = 0; n < co; ++n) {
            const Acc factor = exps<Acc>(owner_max[o0 + n] - top[n]);
            owner_sum[o0 + n] = owner_sum[o0 + n] * factor + total[n];
            owner_max[o0 + n] = top[n];
            if (factor == 1) continue;
            for (int64_t k = 0; k < dv; ++k) attended[(o0 + n) * ld + k] *= factor;
        }
        P::clear_tails(this->by_other, this->by_owner, ci, co);
        grad_block<P, true>(this->by_owner, co, steps_for<P>(ci), value_features, dv, attended + o0 * ld, ld);
    }
};

// Rows of sums that whole vectors are added to: the tensor itself where its rows are whole vectors, and else scratch.
template <class Acc> struct RowSums {
    Acc *out, *at;
    int64_t rows, width, ld;
    RowSums(void *tensor, int64_t rows, int64_t width)
        : out(static_cast<Acc *>(tensor)), at(out), rows(rows), width(width), ld(round_up(width, kLanes<Acc>)) {}
    int64_t bytes() const { return !out || ld == width ? 0 : rows * ld * int64_t(sizeof(Acc)) + 64; }
    void use(Memory &memory) {
        if (bytes()) at = reinterpret_cast<Acc *>(memory.take(bytes()));
    }
    void clear(int threads) {
        if (!out) return;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t i = 0; i < rows; ++i) memset(at + i * ld, 0, ld * sizeof(Acc));
    }
    void finish() const {
        for (int64_t i = 0; at != out && i < rows; ++i) memcpy(out + i * width, at + i * ld, width * sizeof(Acc));
    }
};

template <class P, class In> bool attend_typed(const Attention &a, const Attended &to) {
    using Acc = typename P::Acc;
    using Job = Attending<P, In>;
    const int64_t n = a.queries.count, m = a.keys.count;
    const Plan p = plan<P>(Meeting::kOneSide, n, m, a.d + a.dv, a.threads);
    const int64_t each = round_up(Job::bytes(a.d, a.dv), 64);
    RowSums<Acc> out(to.out, n, a.dv);
    Memory memory(each * p.threads + 2 * (n * int64_t(sizeof(Acc)) + 64) + out.bytes() + 256);
    if (!memory.data) return false;
    char *scratch = memory.take(each * p.threads);
    out.use(memory);
    if (m == 0) out.clear(1);
    Job job{};
    job.owners = a.queries, job.others = a.keys, job.values = a.values, job.d = a.d, job.dv = a.dv;
    job.scale = Acc(a.scale), job.other_bias = static_cast<const Acc *>(a.bias);
    job.exclusion = {a.exclude, nullptr, a.excluded, true};
    job.owner_max = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    job.owner_sum = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    job.attended = out.at, job.ld = out.ld;
    run(job, p.meeting, {n, p.owner_block}, {m, p.other_block}, p.threads, scratch, each);
    Acc *lse = static_cast<Acc *>(to.lse);
    for (int64_t i = 0; i < n; ++i)
        lse[i] = m == 0 || job.owner_sum[i] == 0 ? -Acc(INFINITY)
                                                 : Acc(double(job.owner_max[i]) + log(double(job.owner_sum[i])));
    out.finish();
    return true;
}

} // namespace
