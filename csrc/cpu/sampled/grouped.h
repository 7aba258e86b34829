// SPDX-License-Identifier: Apache-2.0
// Computes the gradient of y: dy_j = s sum of g_ik x_i over the entries (i, k) with index[i, k] = j.
//
// A counting sort groups the entries by row of y, each with its weight, in the order of (i, k). Then a row of y is
// summed and written once, by one thread: no atomics, and the same bits whatever the number of threads. A row that many
// entries name would hold up the others, and is summed by all threads, each with features of its own.
// Cost: the index is read twice, N*K pairs (row of x, weight) are written and read; N*K rows of x are read, from
// whichever cache holds them; 2*N*K*D operations. Memory: N*K pairs, and a count per row of y for up to N*K/M threads.
#pragma once
#include "../huge_pages.h"
#include "../memory.h"
#include "../threads.h"
#include "entries.h"

namespace {

// The entries of row j of y are those from begin(j) to before begin(j + 1).
template <class Whole, class Acc> struct Groups {
    struct Pair {
        Whole i;
        Acc weight;
    };
    Pair *pairs;
    Whole *counts; // (chunks, M): how many entries of a chunk of rows name each row of y; later where the next one goes
    int64_t chunks, m;

    int64_t begin(int64_t j) const { return j == 0 ? 0 : int64_t(counts[(chunks - 1) * m + j - 1]); }

    void fill(const Sampled &s, const Acc *grad, int threads) const {
        const int64_t n = s.x.count;
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t c = 0; c < chunks; ++c) {
            Whole *count = counts + c * m;
            memset(count, 0, m * sizeof(Whole));
            for (int64_t e = c * n / chunks * s.k; e < (c + 1) * n / chunks * s.k; ++e) {
                const int64_t j = entry(s, e);
                if (names_a_row(s, j)) ++count[j];
            }
        }
        Whole place = 0;
        for (int64_t j = 0; j < m; ++j)
            for (int64_t c = 0; c < chunks; ++c) {
                const Whole count = counts[c * m + j];
                counts[c * m + j] = place;
                place += count;
            }
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t c = 0; c < chunks; ++c)
            for (int64_t i = c * n / chunks; i < (c + 1) * n / chunks; ++i)
                for (int64_t k = 0; k < s.k; ++k) {
                    const int64_t j = entry(s, i * s.k + k);
                    if (names_a_row(s, j)) pairs[counts[c * m + j]++] = {Whole(i), grad[i * s.k + k]};
                }
    }
};

// Writes features first to first + width of row j.
template <class In, class Whole, class Acc>
void sum_of_row(const Sampled &s, const Groups<Whole, Acc> &groups, int64_t j, int64_t first, int64_t width, Acc *room,
                In *out) {
    const int64_t end = groups.begin(j + 1);
    WeightedSum<In, Acc> sum(room, room + width, width);
    for (int64_t at = groups.begin(j); at < end; ++at) {
        if (at + kAhead < end) ask_for(row<In>(s.x, groups.pairs[at + kAhead].i) + first, width);
        sum.add(row<In>(s.x, groups.pairs[at].i) + first, groups.pairs[at].weight);
    }
    sum.finish();
    write_scaled(out + j * s.d + first, room, Acc(s.scale), width);
}

template <class In, class Whole> bool gradient_of_y_sized(const Sampled &s, const SampledGrad &of) {
    using Acc = typename Accumulator<In>::type;
    using Pair = typename Groups<Whole, Acc>::Pair;
    constexpr int64_t kFeatures = 64; // of a row that many entries name; a multiple of every vector
    const int64_t n = s.x.count, m = s.y.count, d = s.d, entries = n * s.k;
    const int threads = threads_for(entries * d + m * d, s.threads);
    const int64_t chunks = entries > m && m > 0 ? least(least(threads, n), entries / m) : 1;
    const int64_t room = round_up(2 * d * int64_t(sizeof(Acc)), 64);
    Memory memory(entries * int64_t(sizeof(Pair)) + chunks * m * int64_t(sizeof(Whole)) + room * threads + 192);
    if (!memory.data) return false;
    const Groups<Whole, Acc> groups = {reinterpret_cast<Pair *>(memory.take(entries * int64_t(sizeof(Pair)))),
                                       reinterpret_cast<Whole *>(memory.take(chunks * m * int64_t(sizeof(Whole)))),
                                       chunks, m};
    char *rooms = memory.take(room * threads);
    In *out = static_cast<In *>(of.out);
    fresh(out, m * d * int64_t(sizeof(In)));
    groups.fill(s, static_cast<const Acc *>(of.grad), threads);
    const int64_t many = threads == 1 ? entries : 1024 + entries / (8 * threads);
    const auto count = [&](int64_t j) { return groups.begin(j + 1) - groups.begin(j); };
#pragma omp parallel num_threads(threads)
    {
        Acc *mine = reinterpret_cast<Acc *>(rooms + omp_get_thread_num() * room);
#pragma omp for schedule(dynamic, 16) nowait
        for (int64_t j = 0; j < m; ++j)
            if (count(j) <= many) sum_of_row(s, groups, j, 0, d, mine, out);
        if (entries > many)
            for (int64_t j = 0; j < m; ++j) {
                if (count(j) <= many) continue;
#pragma omp for schedule(static) nowait
                for (int64_t f = 0; f < d; f += kFeatures)
                    sum_of_row(s, groups, j, f, least(kFeatures, d - f), mine, out);
            }
    }
    return true;
}

template <class In> bool gradient_of_y_typed(const Sampled &s, const SampledGrad &of) {
    const bool small = s.x.count * s.k <= INT32_MAX && s.x.count <= INT32_MAX;
    return small ? gradient_of_y_sized<In, int32_t>(s, of) : gradient_of_y_sized<In, int64_t>(s, of);
}

} // namespace
