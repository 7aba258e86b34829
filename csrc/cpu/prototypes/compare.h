// SPDX-License-Identifier: Apache-2.0
// Compares the softmaxes of a student's rows over prototypes with those of the teacher's rows that they follow, without
// the rows x prototypes numbers of either. With x the logits of a row, p its softmax and q its target, the sum of its
// shares of the teacher's softmaxes:
//
//   loss    sum q (top - x)  +  sum q * log sum e^(x - top)       no term is negative
//   slope   sum (p sum q - q) x / scale                           of the loss by the scale
//   G       p sum q - q;   d student = scale * G W,   d weight = scale * G^T student
//
// Each thread has its own prototypes, in blocks that lie in vector lanes, and meets all rows twice: first for the peaks
// and totals of softmaxes, and then, when those are known, for logits again and all that follows from them. A block of
// prototypes has its whole gradient when it has met all rows; that of the rows is added up over threads.
// Cost: (8*N + 4*M)*K*D operations, 4*(N + M)*K*D without gradients; memory for rows and for one block of each thread.
#pragma once
#include "../huge_pages.h"
#include "followers.h"
#include "owners.h"
#include <omp.h>

namespace {

using sslkernels::ComparisonOut;

// Compares one part of the rows, or all of them.
template <class P, class In> struct Compare {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int MR = P::MR, NR = P::NR, L = kLanes<Acc>;

    const Comparison &c;
    const ComparisonOut &out;
    const Followers<Acc> &f;
    int64_t begin, end; // blocks of rows
    int64_t owner_block, ld;

    struct Worker { // what a thread has of its own
        Owners<P> student, teacher;
        In *gathered;                  // rows of a slot, one after the other
        Elem *features;                // the prototypes, as the right side of the rows' gradient
        Elem *by_other, *by_owner;     // G in both layouts
        Acc *softmax;                  // (most, kBlock): of the teacher's rows that a block of rows follows
        Acc *moved, *pushed;           // (rows, ld), (kBlock, ld): unscaled gradients of rows and of prototypes
        Acc *top, *teacher_top;        // of rows, with its own prototypes alone
        double *total, *teacher_total; // sums of e^(logit - top)
        double *loss, *slope;          // of rows
    };
    // All threads share the following.
    Elem *packed, *features, *teachers; // rows, by block: as others, and as the right side of the prototypes' gradient
    int64_t *slots;                     // (blocks + 1,): where the teacher's rows of a block begin, in slots of kBlock
    int64_t *strips;                    // (blocks + 1,): rows of both sides before a block, each side in whole strips
    Acc *kept;                          // logits of the first blocks, which the second meeting need not compute again
    int64_t kept_blocks;
    Acc *top, *factor; // of rows: the peak of logits, and by what e^(logit - top) is p sum q
    Acc *teacher_top, *teacher_factor;
    double *loss, *slope;
    Worker *workers;

    int64_t blocks() const { return end - begin; }
    int64_t teacher_slots() const {
        int64_t count = 0;
        for (int64_t b = begin; b < end; ++b) count += (f.known_of(b) + kBlock - 1) / kBlock;
        return count;
    }
    int64_t owners() const { return (c.weight.count + owner_block - 1) / owner_block; }
    int64_t width() const { return round_up(owner_block, NR); }
    int64_t rows_of(int64_t b) const { return round_up(f.length(b), MR) + round_up(f.known_of(b), MR); }
    int64_t kept_rows() const {
        int64_t rows = 0;
        for (int64_t b = begin; b < begin + kept_blocks; ++b) rows += rows_of(b);
        return rows;
    }
    // The kept logits of a block of rows, those of the student first, with a block of prototypes; null for none.
    Acc *kept_of(int64_t b, int64_t o) const {
        if (b - begin >= kept_blocks) return nullptr;
        return kept + (o * strips[kept_blocks] + strips[b - begin]) * width();
    }
    Acc *kept_of_teacher(int64_t b, int64_t o, int64_t first) const {
        Acc *of_block = kept_of(b, o);
        return of_block ? of_block + (round_up(f.length(b), MR) + first) * width() : nullptr;
    }
    static int64_t others_size(int64_t d) { return kBlock * round_up(steps_for<P>(d), NR); }
    static int64_t features_size(int64_t d) { return kBlock / P::kPack * round_up(d, NR); }

    // Calls take(pointer, count) for everything that needs memory.
    template <class Take> void lay_out(Take take) {
        const int64_t rows = blocks() * kBlock, known = teacher_slots() * kBlock, d = c.d, e = c.teacher_d;
        take(packed, blocks() * others_size(d)), take(features, P::kPack > 1 ? blocks() * features_size(d) : 0);
        take(teachers, teacher_slots() * others_size(e)), take(slots, blocks() + 1), take(strips, blocks() + 1);
        take(kept, kept_rows() * owners() * width());
        take(top, rows), take(factor, rows), take(teacher_top, known), take(teacher_factor, known);
        take(loss, rows), take(slope, rows), take(workers, c.threads);
    }
    template <class Take> void lay_out(Worker &w, Take take) const {
        const int64_t rows = blocks() * kBlock, known = teacher_slots() * kBlock, d = c.d, e = c.teacher_d;
        take(w.student.packed, kBlock * steps_for<P>(d)), take(w.teacher.packed, kBlock * steps_for<P>(e));
        take(w.teacher.bias, c.bias ? kBlock : 0), take(w.gathered, kBlock * (d > e ? d : e));
        take(w.features, features_size(d)), take(w.by_other, 2 * kBlock * kBlock);
        take(w.softmax, round_up(f.most, MR) * kBlock);
        take(w.moved, out.dstudent ? rows * ld : 0), take(w.pushed, kBlock * ld);
        take(w.top, rows), take(w.teacher_top, known), take(w.total, rows), take(w.teacher_total, known);
        take(w.loss, rows), take(w.slope, rows);
    }

    // Returns whether there was memory. Adds to `value` and `of_scale`, and to gradients of earlier parts.
    bool run(double &value, double &of_scale) {
        int64_t bytes = 0, each = 0, left = c.kept / (owners() * width() * int64_t(sizeof(Acc)));
        kept_blocks = 0;
        for (int64_t b = begin; b < end && (left -= rows_of(b)) >= 0; ++b) ++kept_blocks;
        const auto size = [](int64_t &sum) {
            return [&sum](auto *&pointer, int64_t count) { sum += round_up(count * int64_t(sizeof *pointer), 64); };
        };
        Worker none;
        lay_out(size(bytes)), lay_out(none, size(each));
        Memory memory(bytes + c.threads * each);
        if (!memory.data) return false;
        const auto take = [&](auto *&pointer, int64_t count) {
            pointer = reinterpret_cast<decltype(+pointer)>(memory.take(count * int64_t(sizeof *pointer)));
        };
        lay_out(take);
        slots[0] = strips[0] = 0;
        for (int64_t b = begin, at = 0; b < end; ++b, ++at) {
            slots[at + 1] = slots[at] + (f.known_of(b) + kBlock - 1) / kBlock;
            strips[at + 1] = strips[at] + rows_of(b);
        }
        for (int t = 0; t < c.threads; ++t) {
            Worker &w = workers[t];
            lay_out(w, take);
            w.by_owner = P::kPack == 1 ? w.by_other : w.by_other + kBlock * kBlock;
            w.student.bias = nullptr, w.teacher.bias = c.bias ? w.teacher.bias : nullptr;
            w.student.steps = steps_for<P>(c.d), w.teacher.steps = steps_for<P>(c.teacher_d);
            w.student.width = w.teacher.width = width();
            w.student.scale = Acc(c.scale), w.teacher.scale = Acc(c.teacher_scale);
        }
#pragma omp parallel num_threads(c.threads)
        work(omp_get_thread_num(), omp_get_num_threads());
        for (int64_t b = begin; b < end; ++b)
            for (int64_t r = 0; r < f.length(b); ++r)
                value += loss[(b - begin) * kBlock + r], of_scale += slope[(b - begin) * kBlock + r] / c.scale;
        return true;
    }
    void work(int t, int T) {
        [[maybe_unused]] typename P::Session session;
        Worker &w = workers[t];
        pack(w);
        const int64_t from = owners() * t / T, to = owners() * (t + 1) / T;
        for (int64_t o = from; o < to; ++o) {
            take_owners(w, o, true);
            for (int64_t b = begin; b < end; ++b) measure(w, b, o);
        }
#pragma omp barrier
        merge(T);
        for (int64_t o = from; o < to; ++o) {
            take_owners(w, o, to - from > 1 && kept_blocks < blocks());
            if (out.dstudent) pack_features<P, In>(c.weight, o * owner_block, w.student.count, c.d, w.features);
            if (out.dweight) memset(w.pushed, 0, w.student.count * ld * sizeof(Acc));
            for (int64_t b = begin; b < end; ++b) meet(w, b, o);
            if (out.dweight) push(w, o * owner_block);
        }
#pragma omp barrier
        finish(T);
    }

    // Packs the rows of this part, each thread some blocks, and clears what a thread adds up.
    void pack(Worker &w) {
        const auto gather = [&](const Rows &from, const int64_t *places, int64_t count, int64_t d) {
            for (int64_t r = 0; r < count; ++r) memcpy(w.gathered + r * d, row<In>(from, places[r]), d * sizeof(In));
            return Rows{w.gathered, d, count};
        };
#pragma omp for schedule(static) nowait
        for (int64_t b = begin; b < end; ++b) {
            const int64_t count = f.length(b), at = b - begin;
            const Rows rows = gather(c.student, f.order + b * f.side, count, c.d);
            pack_others<P, In>(rows, 0, count, c.d, packed + at * others_size(c.d));
            if (P::kPack > 1 && out.dweight)
                pack_features<P, In>(rows, 0, count, c.d, features + at * features_size(c.d));
            for (int64_t s = slots[at], first = 0; s < slots[at + 1]; ++s, first += kBlock) {
                const int64_t there = least(kBlock, f.known_of(b) - first);
                pack_others<P, In>(gather(c.teacher, f.known + f.first_known[b] + first, there, c.teacher_d), 0, there,
                                   c.teacher_d, teachers + s * others_size(c.teacher_d));
            }
        }
        const int64_t rows = blocks() * kBlock, known = slots[blocks()] * kBlock;
        for (int64_t r = 0; r < rows; ++r) w.top[r] = kLowestLogit<Acc>, w.total[r] = w.loss[r] = w.slope[r] = 0;
        for (int64_t r = 0; r < known; ++r) w.teacher_top[r] = kLowestLogit<Acc>, w.teacher_total[r] = 0;
        if (out.dstudent) memset(w.moved, 0, rows * ld * sizeof(Acc));
#pragma omp barrier
    }
    void take_owners(Worker &w, int64_t o, bool packed) const {
        const int64_t first = o * owner_block, count = least(owner_block, c.weight.count - first);
        w.student.count = w.teacher.count = count;
        if (!packed) return;
        w.student.template take<In>(c.weight, nullptr, first, count, c.d);
        w.teacher.template take<In>(c.teacher_weight, static_cast<const Acc *>(c.bias), first, count, c.teacher_d);
    }
    void measure(Worker &w, int64_t b, int64_t o) const {
        const int64_t at = b - begin;
        w.student.measure(packed + at * others_size(c.d), f.length(b), kept_of(b, o), w.top + at * kBlock,
                          w.total + at * kBlock);
        for (int64_t s = slots[at], first = 0; s < slots[at + 1]; ++s, first += kBlock)
            w.teacher.measure(teachers + s * others_size(c.teacher_d), least(kBlock, f.known_of(b) - first),
                              kept_of_teacher(b, o, first), w.teacher_top + s * kBlock, w.teacher_total + s * kBlock);
    }
    // Merges what threads found of the softmaxes of whole rows.
    void merge(int T) {
        const auto merged = [&](Acc *Worker::*tops, double *Worker::*totals, int64_t r, Acc &most) {
            double total = 0;
            most = kLowestLogit<Acc>;
            for (int t = 0; t < T; ++t) most = (workers[t].*tops)[r] > most ? (workers[t].*tops)[r] : most;
            for (int t = 0; t < T; ++t)
                total += (workers[t].*totals)[r] * exp(double((workers[t].*tops)[r]) - double(most));
            return total;
        };
#pragma omp for schedule(static)
        for (int64_t r = 0; r < slots[blocks()] * kBlock; ++r) {
            const double total = merged(&Worker::teacher_top, &Worker::teacher_total, r, teacher_top[r]);
            teacher_factor[r] = total == 0 ? Acc(0) : Acc(1 / total); // no prototype is left to a row
        }
#pragma omp for schedule(static)
        for (int64_t b = begin; b < end; ++b)
            for (int64_t r = 0, at = (b - begin) * kBlock; r < kBlock; ++r, ++at) {
                top[at] = factor[at] = 0, loss[at] = slope[at] = 0;
                if (r >= f.length(b)) continue; // rows that fill up a block are zeros and weigh nothing
                const double total = merged(&Worker::top, &Worker::total, at, top[at]);
                double shares = 0;
                const int64_t place = b * f.side + r;
                for (int64_t p = f.first_pair[place]; p < f.first_pair[place + 1]; ++p)
                    if (teacher_factor[slots[b - begin] * kBlock + f.place[p]] != 0) shares += double(f.share[p]);
                factor[at] = Acc(shares / total);
                loss[at] = shares * log(total);
            }
    }
    // Fills the softmaxes of the teacher's rows that a block of rows follows.
    void soften(Worker &w, int64_t b, int64_t o) const {
        for (int64_t s = slots[b - begin], first = 0; s < slots[b - begin + 1]; ++s, first += kBlock)
            for (int64_t m0 = 0; m0 < least(kBlock, f.known_of(b) - first); m0 += MR)
                for (int64_t n0 = 0; n0 < w.teacher.count; n0 += NR) {
                    Acc t[P::MR * P::NR];
                    const Acc *tops = teacher_top + s * kBlock + m0, *factors = teacher_factor + s * kBlock + m0;
                    w.teacher.logits(teachers + s * others_size(c.teacher_d), kept_of_teacher(b, o, first), m0, n0, t);
                    w.teacher.fill_beyond(n0, t, [](int) { return -Acc(INFINITY); });
                    for (int m = 0; m < MR; ++m)
                        for (int v = 0; v < NR; v += L)
                            store(w.softmax + (first + m0 + m) * kBlock + n0 + v,
                                  expv(load(t + m * NR + v) - tops[m]) * factors[m]);
                }
    }
    void meet(Worker &w, int64_t b, int64_t o) const {
        const int64_t at = (b - begin) * kBlock, count = f.length(b);
        const Elem *rows = packed + (b - begin) * others_size(c.d);
        soften(w, b, o);
        for (int64_t m0 = 0; m0 < count; m0 += MR) {
            Vector<Acc> apart[MR]{}, slopes[MR]{};
            for (int64_t n0 = 0; n0 < w.student.count; n0 += NR) {
                Acc g[P::MR * P::NR];
                w.student.logits(rows, kept_of(b, o), m0, n0, g);
                w.student.fill_beyond(n0, g, [=](int m) { return top[at + m0 + m]; }); // where 0 times it is 0
                for (int m = 0; m < least(MR, count - m0); ++m)
                    weigh(w, b * f.side + m0 + m, top[at + m0 + m], factor[at + m0 + m], n0, g + m * NR, apart[m],
                          slopes[m]);
                if (!out.dstudent && !out.dweight) continue;
                clear_beyond(count - m0, w.student.count - n0, g);
                P::keep(g, m0, n0, w.by_other, w.by_owner);
            }
            for (int m = 0; m < least(MR, count - m0); ++m) {
                w.loss[at + m0 + m] += double(sum_of<Acc>(apart[m]));
                w.slope[at + m0 + m] += double(sum_of<Acc>(slopes[m])) + double(sum_of<Acc>(apart[m]));
            }
        }
        if (!out.dstudent && !out.dweight) return;
        P::clear_tails(w.by_other, w.by_owner, count, w.student.count);
        if (out.dweight)
            grad_block<P, true>(w.by_owner, w.student.count, steps_for<P>(count),
                                P::kPack > 1 ? features + (b - begin) * features_size(c.d) : rows, c.d, w.pushed, ld);
        if (out.dstudent)
            grad_block<P, false>(w.by_other, count, steps_for<P>(w.student.count), w.features, c.d, w.moved + at * ld,
                                 ld);
    }
    // Turns logits of a row with some prototypes into G. Numbers beyond the last prototype are cleared afterwards.
    SSLK_INLINE void weigh(const Worker &w, int64_t place, Acc peak, Acc by, int64_t n0, Acc *g, Vector<Acc> &apart,
                           Vector<Acc> &slope) const {
        const int64_t first = f.first_pair[place], last = f.first_pair[place + 1];
        for (int v = 0; v < NR; v += L) {
            const Vector<Acc> below = load(g + v) - peak, e = expv(below) * by;
            Vector<Acc> q{};
            for (int64_t p = first; p < last; ++p) q += load(w.softmax + f.place[p] * kBlock + n0 + v) * f.share[p];
            apart -= q * below, slope += e * below;
            store(g + v, e - q);
        }
    }
    static void clear_beyond(int64_t rows, int64_t lanes, Acc *g) {
        for (int64_t m = 0; (rows < MR || lanes < NR) && m < MR; ++m)
            for (int64_t n = m < rows ? least(lanes, NR) : 0; n < NR; ++n) g[m * NR + n] = 0;
    }
    void push(const Worker &w, int64_t first) const {
        Acc *to = static_cast<Acc *>(out.dweight) + first * c.d;
        for (int64_t n = 0; n < w.student.count; ++n)
            for (int64_t k = 0; k < c.d; ++k)
                to[n * c.d + k] = (begin ? to[n * c.d + k] : Acc(0)) + w.pushed[n * ld + k] * Acc(c.scale);
    }
    void finish(int T) {
#pragma omp for schedule(static)
        for (int64_t b = begin; b < end; ++b)
            for (int64_t r = 0, at = (b - begin) * kBlock; r < f.length(b); ++r, ++at) {
                for (int t = 0; t < T; ++t) loss[at] += workers[t].loss[at], slope[at] += workers[t].slope[at];
                if (!out.dstudent) continue;
                Acc *to = static_cast<Acc *>(out.dstudent) + f.order[b * f.side + r] * c.d;
                for (int64_t k = 0; k < c.d; ++k) {
                    Acc sum = 0;
                    for (int t = 0; t < T; ++t) sum += workers[t].moved[at * ld + k];
                    to[k] = sum * Acc(c.scale);
                }
            }
    }
};

template <class P, class In> bool compare_typed(const Comparison &given, const ComparisonOut &out) {
    using Acc = typename P::Acc;
    Comparison c = given;
    const int64_t n = c.student.count, k = c.weight.count;
    // The blocks of wide rows shrink, to stay in the L2 cache.
    const int64_t most = c.d > 768 || c.teacher_d > 768 ? kBlock / 2 : kBlock;
    c.threads = n * k * c.d < (1 << 20) ? 1 : int(least(c.threads, (k + P::NR - 1) / P::NR));
    Memory listed(Followers<Acc>::bytes(c));
    if (!listed.data) return false;
    const Followers<Acc> f(c, block_of<P>(n, 1, most), listed);
    double value = 0, of_scale = 0;
    if (out.dstudent) memset(out.dstudent, 0, n * c.d * sizeof(Acc));
    if (out.dweight) fresh(out.dweight, k * c.d * int64_t(sizeof(Acc)));
    if (out.dweight && f.rows == 0) memset(out.dweight, 0, k * c.d * sizeof(Acc));
    const int64_t ld = round_up(c.d, kLanes<Acc>), row_bytes = c.threads * ld * int64_t(sizeof(Acc));
    const int64_t together = c.most / (kBlock * row_bytes) > 0 ? c.most / (kBlock * row_bytes) : 1;
    for (int64_t b = 0; b < f.blocks; b += together) {
        Compare<P, In> part{c, out, f, b, least(b + together, f.blocks), block_of<P>(k, c.threads, most), ld};
        if (!part.run(value, of_scale)) return false;
    }
    if (out.value) *static_cast<Acc *>(out.value) = Acc(value);
    if (out.dscale) *static_cast<Acc *>(out.dscale) = Acc(of_scale);
    return true;
}

} // namespace
