// SPDX-License-Identifier: Apache-2.0
// Computes the log-sum-exp of S = s*X*Y^T over rows and columns, and its gradient, without the matrix.
//
//   forward   a running (max, sum) per owner, which stands for sum*e^max and is merged exactly
//   backward  G = a_i e^(t - lse_i) + b_j e^(t - lse_j);  dX = s*G*Y,  dY = s*G^T*X,  ds = sum x . (G*Y)
//
// Blocks of owners (in vector lanes) meet blocks of others. Where both sides are wanted, a pair of blocks serves both:
//   x with itself   groups of blocks meet as in a round-robin tournament, so that no two threads ever write one row
//   x with y        groups meet along the diagonals of a Latin square
//   one side only   each thread keeps its owners
// There are no atomics and no copies per thread, and the order of every sum depends on the thread count alone.
// Cost: 2*N*M*D operations forward, 4 to 6*N*M*D backward, half of that for x with itself; O((N+M)*D) bytes. Where the
// caller gives room, the forward leaves its exponentials there, and the backward saves 2*N*M*D operations (kept.h).
// Derivation and measurements: docs/design/similarity.md
#include "../bfloat16.h"
#include "../dot.h"
#include "../memory.h"
#include "../threads.h"
#include "../variant.h"
#include "attend.h"
#include "gradient.h"
#include "kernels.h"
#include "logsumexp.h"
#include "schedule.h"

namespace {

using sslkernels::Similarity;
using sslkernels::SimilarityGrad;

template <class Acc> void fill(Acc *p, int64_t n, Acc x) {
    for (int64_t i = 0; i < n; ++i) p[i] = x;
}

// Returns the sum of a row or column whose largest logit is infinite. It is infinite, or NaN if another logit is NaN.
// The running sum is NaN in both cases, so the row is read once more.
template <class In, class Acc> Acc beyond_range(const Similarity &s, int64_t index, bool column) {
    const Rows y = s.y;
    for (int64_t k = 0; k < (column ? s.x.count : y.count); ++k) {
        const int64_t i = column ? k : index, j = column ? index : k;
        bool excluded = false;
        for (int64_t e = 0; s.exclude && e < s.excluded; ++e) excluded |= s.exclude[i * s.excluded + e] == j;
        const Acc logit = Acc(s.scale) * dot<Acc>(row<In>(s.x, i), row<In>(y, j), s.d);
        if (!excluded && logit != logit) return Acc(NAN);
    }
    return Acc(INFINITY);
}

template <class In, class Acc>
void finish_lse(const Similarity &s, bool column, const Acc *top, const Acc *total, int64_t n, void *out_) {
    Acc *out = static_cast<Acc *>(out_);
    for (int64_t i = 0; i < n; ++i) {
        out[i] = total[i] == 0 ? -Acc(INFINITY) : Acc(double(top[i]) + log(double(total[i])));
        if (top[i] == Acc(INFINITY)) out[i] = beyond_range<In, Acc>(s, i, column);
    }
}

template <class P, class In> bool forward_typed(const Similarity &s, void *rows, void *columns, void *attended) {
    using Acc = typename P::Acc;
    const bool self = s.itself;
    const Rows y = s.y;
    const int64_t n = s.x.count, m = y.count;
    const Meeting meeting = self && !columns ? Meeting::kItself : columns ? Meeting::kBothSides : Meeting::kOneSide;
    const Plan p = plan<P>(meeting, n, m, s.d, s.threads);
    const bool attend = attended;
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, attend), 64), ld = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == s.d;
    Memory memory(each * p.threads + 4 * 64 + 2 * (n + m) * int64_t(sizeof(Acc)) +
                  (attend ? p.threads * kBlock * kBlock * int64_t(sizeof(Acc)) : 0) +
                  (attend && !direct ? n * ld * int64_t(sizeof(Acc)) + 64 : 0) + 256);
    if (!memory.data) return false;
    char *scratch = memory.take(each * p.threads);
    Acc *state[4];
    for (int k = 0; k < 4; ++k) {
        state[k] = reinterpret_cast<Acc *>(memory.take((k < 2 ? n : m) * int64_t(sizeof(Acc))));
        fill(state[k], k < 2 ? n : m, Acc(k % 2 ? 0 : kLowest<Acc>));
    }
    const Exclusion exclusion{s.exclude, meeting == Meeting::kItself ? s.exclude : nullptr, s.excluded,
                              meeting != Meeting::kItself};
    const Blocks o{n, p.block}, i{m, p.block};
    auto set = [&](auto &job) {
        job.owners = s.x, job.others = y, job.d = s.d, job.scale = Acc(s.scale), job.exclusion = exclusion;
        job.owner_max = state[0], job.owner_sum = state[1], job.features = attend;
    };
    if (attend) {
        Attend<P, In> job{};
        set(job);
        job.logits = reinterpret_cast<Acc *>(memory.take(p.threads * kBlock * kBlock * int64_t(sizeof(Acc))));
        job.attended =
            direct ? static_cast<Acc *>(attended) : reinterpret_cast<Acc *>(memory.take(n * ld * int64_t(sizeof(Acc))));
        job.ld = ld;
        memset(job.attended, 0, n * ld * sizeof(Acc));
        run(job, p.meeting, o, i, p.threads, scratch, each);
        if (!direct)
            for (int64_t r = 0; r < n; ++r)
                memcpy(static_cast<Acc *>(attended) + r * s.d, job.attended + r * ld, s.d * sizeof(Acc));
    } else {
        LogSumExp<P, In> job{};
        set(job);
        job.other_max = meeting == Meeting::kItself ? state[0] : state[2];
        job.other_sum = meeting == Meeting::kItself ? state[1] : state[3];
        job.kept = Kept<P>(s.kept, s.kept_bytes, n, m, {p.meeting == Meeting::kItself, 0, p.block});
        run(job, p.meeting, o, i, p.threads, scratch, each);
    }
    finish_lse<In>(s, false, state[0], state[1], n, rows);
    if (columns) finish_lse<In>(s, true, state[2], state[3], m, columns);
    return true;
}

// Copies lse and its gradient, and makes rows neutral that get no gradient, because none arrives or no pair was left.
// An infinite or NaN gradient still gives NaN in such a row, and so does a gradient of zero where the weights are NaN.
template <class Acc> Side<Acc> side_of(const void *lse, const void *grad, int64_t n, Memory &memory) {
    Side<Acc> side{};
    if (!lse || !grad) return side;
    side.lse = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    side.grad = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    for (int64_t i = 0; i < n; ++i) {
        const Acc x = static_cast<const Acc *>(lse)[i], g = static_cast<const Acc *>(grad)[i];
        const bool neutral = x == -Acc(INFINITY) || (g == 0 && x - x == 0);
        side.lse[i] = neutral ? kNeutral<Acc> + g * 0 : x;
        side.grad[i] = neutral ? g * 0 : g;
    }
    return side;
}

// Writes out = scale * moved, and returns the sum of x . moved.
template <class In, class Acc>
double finish_gradient(const Rows &x, const Acc *moved, int64_t ld, int64_t d, double scale, void *out, int threads) {
    constexpr int kParts = 64; // a fixed number, so that the order of the sum does not depend on the threads
    double parts[kParts] = {};
#pragma omp parallel for schedule(static) num_threads(threads_for(x.count *d, threads))
    for (int part = 0; part < kParts; ++part)
        for (int64_t i = x.count * part / kParts; i < x.count * (part + 1) / kParts; ++i) {
            const In *in = row<In>(x, i);
            In *to = static_cast<In *>(out) + i * d;
            parts[part] += double(dot<Acc>(in, moved + i * ld, d));
            for (int64_t k = 0; k < d; ++k) to[k] = narrow<In>(Acc(Acc(scale) * moved[i * ld + k]));
        }
    double total = 0;
    for (double part : parts) total += part;
    return total;
}

template <class P, class In> bool backward_typed(const Similarity &s, const SimilarityGrad &grad) {
    using Acc = typename P::Acc;
    const bool self = s.itself;
    const Rows y = s.y;
    const bool both = grad.dx && grad.dy, swap = !grad.dx;
    const Meeting meeting = self ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
    const Rows owners = swap ? y : s.x, others = swap ? s.x : y;
    const Plan p = plan<P>(meeting, owners.count, others.count, s.d, s.threads);
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, true), 64), ld = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == s.d && sizeof(In) == sizeof(Acc);
    const int64_t moved_rows = owners.count + (both ? others.count : 0);
    Memory memory(each * p.threads + 2 * (s.x.count + y.count) * int64_t(sizeof(Acc)) + 8 * 64 +
                  (direct ? 0 : moved_rows * ld * int64_t(sizeof(Acc))));
    if (!memory.data) return false;
    Gradient<P, In> job{};
    char *scratch = memory.take(each * p.threads);
    Side<Acc> of_rows = side_of<Acc>(grad.rows, grad.rows_grad, s.x.count, memory);
    Side<Acc> of_columns = side_of<Acc>(grad.columns, grad.columns_grad, y.count, memory);
    job.own = swap ? of_columns : of_rows;
    job.oth = swap ? of_rows : of_columns;
    void *owner_out = swap ? grad.dy : grad.dx;
    auto moved = [&](void *out, int64_t count) {
        Acc *at = direct ? static_cast<Acc *>(out) : reinterpret_cast<Acc *>(memory.take(count * ld * sizeof(Acc)));
        memset(at, 0, count * ld * sizeof(Acc));
        return at;
    };
    job.own.moved = moved(owner_out, owners.count);
    job.oth.moved = self ? job.own.moved : both ? moved(grad.dy, others.count) : nullptr;
    job.owners = owners, job.others = others, job.d = s.d, job.ld = ld, job.scale = Acc(s.scale);
    job.exclusion = {swap ? nullptr : s.exclude, self || swap ? s.exclude : nullptr, s.excluded, !self};
    job.features = true;
    if (!swap) job.kept = Kept<P>(s.kept, owners.count, others.count);
    if (job.kept.tiles && job.kept.header->triangle &&
        (p.meeting != Meeting::kItself || job.kept.header->block != p.block))
        job.kept = {};
    run(job, p.meeting, Blocks{owners.count, p.block}, Blocks{others.count, p.block}, p.threads, scratch, each);
    const double total = finish_gradient<In, Acc>(owners, job.own.moved, ld, s.d, s.scale, owner_out, s.threads);
    if (both) finish_gradient<In, Acc>(others, job.oth.moved, ld, s.d, s.scale, grad.dy, s.threads);
    *static_cast<Acc *>(grad.dscale) = Acc(self ? total / 2 : total);
    return true;
}

bool forward(const Similarity &s, void *rows, void *columns, void *attended) {
    switch (s.dtype) {
    case sslkernels::kFloat64: return forward_typed<Wide<double>, double>(s, rows, columns, attended);
    case sslkernels::kBFloat16: return forward_typed<BFloat16Policy, bf16>(s, rows, columns, attended);
    case sslkernels::kFloat16: return forward_typed<Wide<float>, f16>(s, rows, columns, attended);
    default: return forward_typed<Wide<float>, float>(s, rows, columns, attended);
    }
}
bool backward(const Similarity &s, const SimilarityGrad &grad) {
    switch (s.dtype) {
    case sslkernels::kFloat64: return backward_typed<Wide<double>, double>(s, grad);
    case sslkernels::kBFloat16: return backward_typed<BFloat16Policy, bf16>(s, grad);
    case sslkernels::kFloat16: return backward_typed<Wide<float>, f16>(s, grad);
    default: return backward_typed<Wide<float>, float>(s, grad);
    }
}

} // namespace

namespace sslkernels {
template <> const SimilarityKernels &kernels_for<SimilarityKernels, SSLK_VARIANT>() {
    static const SimilarityKernels table = {forward, backward};
    return table;
}
} // namespace sslkernels
