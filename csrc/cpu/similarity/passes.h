// SPDX-License-Identifier: Apache-2.0
// Runs the two passes over all pairs: the log-sum-exps, and the gradient that their weights give.
#pragma once
#include "../dot.h"
#include "../memory.h"
#include "attend.h"
#include "gradient.h"
#include "kernels.h"
#include "logsumexp.h"
#include "schedule.h"

namespace {

using sslkernels::Similarity;
using sslkernels::Sums;

template <class Acc> void fill(Acc *p, int64_t n, Acc x) {
    for (int64_t i = 0; i < n; ++i) p[i] = x;
}

// Returns the sum of a row or column whose largest logit is infinite. It is infinite, or NaN if another logit is NaN.
// The running sum is NaN in both cases, so the row is read once more.
template <class In, class Acc> Acc beyond_range(const Similarity &s, int64_t index, bool column) {
    const Rows y = s.y;
    for (int64_t k = 0; k < (column ? s.x.count : y.count); ++k) {
        const int64_t i = column ? k : index, j = column ? index : k;
        const Diagonals &on = s.diagonals;
        const int64_t along = on.views ? j - on.start - (on.first + i) % on.step : -1;
        bool excluded = along >= 0 && along % on.step == 0 && along < on.views * on.step;
        for (int64_t e = 0; s.exclude && e < s.excluded; ++e) excluded |= s.exclude[i * s.excluded + e] == j;
        if (s.row_labels) excluded |= (s.row_labels[i] == s.column_labels[j]) == s.alike;
        Acc logit = Acc(s.scale) * dot<Acc>(row<In>(s.x, i), row<In>(y, j), s.d);
        if (s.bias) logit += static_cast<const Acc *>(s.bias)[j];
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

// Says how the forward of log-sum-exps lays out the exponentials that it keeps.
template <class P> Layout layout_of(Meeting meeting, int64_t owners, int64_t others, int64_t d, int threads) {
    const Plan p = plan<P>(meeting, owners, others, d, threads);
    return {owners, p.owner_block, others, p.other_block, p.meeting == Meeting::kItself};
}

// Computes the log-sum-exps of rows, and of columns or softmax(S) * Y unless null. Rows of the latter are `apart`
// apart. It comes of a flash pass, which gives the same log-sum-exps if it is not wanted.
template <class P, class In>
bool forward_typed(const Similarity &s, const Kept<P> &kept, void *rows, void *columns, bool flash, void *attended,
                   int64_t apart) {
    using Acc = typename P::Acc;
    const bool self = s.itself;
    const Rows y = s.y;
    const int64_t n = s.x.count, m = y.count;
    const Meeting meeting = self && !columns ? Meeting::kItself : columns ? Meeting::kBothSides : Meeting::kOneSide;
    const Plan p = plan<P>(meeting, n, m, s.d, s.threads);
    const bool attend = attended;
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, attend), 64), ld = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == apart;
    Memory memory(each * p.threads + 4 * 64 + 2 * (n + m) * int64_t(sizeof(Acc)) +
                  (flash ? p.threads * kBlock * kBlock * int64_t(sizeof(Acc)) : 0) +
                  (attend && !direct ? n * ld * int64_t(sizeof(Acc)) + 64 : 0) + 256);
    if (!memory.data) return false;
    char *scratch = memory.take(each * p.threads);
    Acc *state[4];
    for (int k = 0; k < 4; ++k) {
        state[k] = reinterpret_cast<Acc *>(memory.take((k < 2 ? n : m) * int64_t(sizeof(Acc))));
        fill(state[k], k < 2 ? n : m, Acc(k % 2 ? 0 : kLowest<Acc>));
    }
    const bool mirrored = meeting == Meeting::kItself; // owners are rows, and others are too
    const Exclusion exclusion{s.exclude,   mirrored ? s.exclude : nullptr,      s.excluded, !mirrored,
                              s.diagonals, mirrored ? s.diagonals : Diagonals{}};
    const Blocks o{n, p.owner_block}, i{m, p.other_block};
    auto set = [&](auto &job) {
        job.owners = s.x, job.others = y, job.d = s.d, job.scale = Acc(s.scale), job.exclusion = exclusion;
        job.other_bias = static_cast<const Acc *>(s.bias);
        job.owner_labels = s.row_labels, job.other_labels = s.column_labels, job.alike = s.alike;
        job.owner_max = state[0], job.owner_sum = state[1], job.features = attend;
    };
    if (flash) {
        Attend<P, In> job{};
        set(job);
        job.logits = reinterpret_cast<Acc *>(memory.take(p.threads * kBlock * kBlock * int64_t(sizeof(Acc))));
        job.attended = !attend  ? nullptr
                       : direct ? static_cast<Acc *>(attended)
                                : reinterpret_cast<Acc *>(memory.take(n * ld * int64_t(sizeof(Acc))));
        job.ld = ld;
        if (attend) memset(job.attended, 0, n * ld * sizeof(Acc));
        run(job, p.meeting, o, i, p.threads, scratch, each);
        if (attend && !direct)
            for (int64_t r = 0; r < n; ++r)
                memcpy(static_cast<Acc *>(attended) + r * apart, job.attended + r * ld, s.d * sizeof(Acc));
    } else {
        LogSumExp<P, In> job{};
        set(job);
        job.other_max = meeting == Meeting::kItself ? state[0] : state[2];
        job.other_sum = meeting == Meeting::kItself ? state[1] : state[3];
        job.kept = kept;
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

// Sums the unscaled gradient: moved_x = sum over columns of weight * y, and moved_y likewise; null where not wanted.
// Rows of both are `ld` apart. The sums of the columns of weights, of_bias, come with moved_y; null where not wanted.
template <class P, class In>
bool moved_typed(const Similarity &s, const Kept<P> &kept, const Sums &sums, void *moved_x, void *moved_y, int64_t ld,
                 void *of_bias = nullptr) {
    using Acc = typename P::Acc;
    const bool self = s.itself;
    const Rows y = s.y;
    const bool both = moved_x && moved_y, swap = !moved_x;
    const Meeting meeting = self ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
    const Rows owners = swap ? y : s.x, others = swap ? s.x : y;
    Plan p = plan<P>(meeting, owners.count, others.count, s.d, s.threads);
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, true), 64), padded = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == padded;
    const int64_t moved_rows = owners.count + (both ? others.count : 0);
    Memory memory(each * p.threads + 2 * (s.x.count + y.count) * int64_t(sizeof(Acc)) + 8 * 64 +
                  (direct ? 0 : moved_rows * padded * int64_t(sizeof(Acc))));
    if (!memory.data) return false;
    Gradient<P, In> job{};
    char *scratch = memory.take(each * p.threads);
    Side<Acc> of_rows = side_of<Acc>(sums.rows, sums.rows_grad, s.x.count, memory);
    Side<Acc> of_columns = side_of<Acc>(sums.columns, sums.columns_grad, y.count, memory);
    job.own = swap ? of_columns : of_rows;
    job.oth = swap ? of_rows : of_columns;
    auto moved = [&](void *out, int64_t count) {
        Acc *at = direct ? static_cast<Acc *>(out) : reinterpret_cast<Acc *>(memory.take(count * padded * sizeof(Acc)));
        memset(at, 0, count * padded * sizeof(Acc));
        return at;
    };
    job.own.moved = moved(swap ? moved_y : moved_x, owners.count);
    job.oth.moved = self ? job.own.moved : both ? moved(moved_y, others.count) : nullptr;
    job.owners = owners, job.others = others, job.d = s.d, job.ld = padded, job.scale = Acc(s.scale);
    const Acc *bias = static_cast<const Acc *>(s.bias);
    job.owner_bias = swap ? bias : nullptr, job.other_bias = swap ? nullptr : bias;
    job.owner_labels = swap ? s.column_labels : s.row_labels;
    job.other_labels = swap ? s.row_labels : s.column_labels, job.alike = s.alike;
    (swap ? job.own : job.oth).total = static_cast<Acc *>(of_bias);
    if (of_bias) memset(of_bias, 0, y.count * sizeof(Acc));
    job.exclusion = {swap ? nullptr : s.exclude,       self || swap ? s.exclude : nullptr,      s.excluded, !self,
                     swap ? Diagonals{} : s.diagonals, self || swap ? s.diagonals : Diagonals{}};
    job.features = true;
    // The forward owned x. Where it met itself as a triangle, only the same schedule finds what it kept.
    const bool found = kept.tiles && !swap && kept.of.triangle == (p.meeting == Meeting::kItself);
    if (found) job.kept = kept, p.owner_block = kept.of.owner_side, p.other_block = kept.of.other_side;
    run(job, p.meeting, Blocks{owners.count, p.owner_block}, Blocks{others.count, p.other_block}, p.threads, scratch,
        each);
    auto copy = [&](const Acc *from, void *to, int64_t count) {
        for (int64_t i = 0; i < count; ++i)
            memcpy(static_cast<Acc *>(to) + i * ld, from + i * padded, s.d * sizeof(Acc));
    };
    if (!direct) copy(job.own.moved, swap ? moved_y : moved_x, owners.count);
    if (!direct && both) copy(job.oth.moved, moved_y, others.count);
    return true;
}

} // namespace
