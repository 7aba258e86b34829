// SPDX-License-Identifier: Apache-2.0
// Computes sampled products, and the gradient of x and of the scale.
//   out_ik = s <x_i, y_j>, or -inf              j = index[i, k]
//   dx_i   = s O_i, ds = sum_i <x_i, O_i>       O_i = sum_k g_ik y_j
// Cost: N*K rows of y are read, from whichever cache holds them, once forward and once backward; 2*N*K*D operations
// each. Rows are asked for before they are multiplied, because the processor cannot foresee their places.
#pragma once
#include "../huge_pages.h"
#include "../lanes.h"
#include "../memory.h"
#include "../threads.h"
#include "entries.h"

namespace {

// Multiplies kCount rows with x, each as if it were alone: a vector of sums, its halves, and what is left over.
template <int kCount, class Acc, class In> inline void dots(const In *x, const In *const *y, int64_t d, Acc *out) {
    constexpr int L = kLanes<Acc>;
    Vector<Acc> sums[kCount] = {};
    int64_t f = 0;
    for (; f + L <= d; f += L) {
        const Vector<Acc> own = wide_load(x + f);
        for (int q = 0; q < kCount; ++q) sums[q] += own * wide_load(y[q] + f);
    }
    for (int q = 0; q < kCount; ++q) {
        Acc lanes[L], rest = 0;
        store(lanes, sums[q]);
        for (int64_t r = f; r < d; ++r) rest += widen<Acc>(x[r]) * widen<Acc>(y[q][r]);
        out[q] = sum_by_halves<L>(lanes) + rest;
    }
}

// Calls f(k, j) for entries k of row i, from first to before end. Their rows of y were asked for some steps earlier.
template <class In, class F> inline void for_entries(const Sampled &s, int64_t i, int64_t first, int64_t end, F f) {
    const auto ask = [&](int64_t k) {
        const int64_t j = entry(s, i * s.k + k);
        if (names_a_row(s, j)) ask_for(row<In>(s.y, j), s.d);
    };
    for (int64_t k = first; k < least(first + kAhead, end); ++k) ask(k);
    for (int64_t k = first; k < end; ++k) {
        if (k + kAhead < end) ask(k + kAhead);
        f(k, entry(s, i * s.k + k));
    }
}

template <class In> void products_typed(const Sampled &s, void *out_) {
    using Acc = typename Accumulator<In>::type;
    constexpr int64_t kChunk = 1024; // entries of a row that a thread takes at once
    const int64_t n = s.x.count, chunks = (s.k + kChunk - 1) / kChunk;
    const Acc scale = Acc(s.scale);
    fresh(out_, n * s.k * int64_t(sizeof(Acc)));
#pragma omp parallel for schedule(static) num_threads(threads_for(n *s.k *s.d, s.threads))
    for (int64_t task = 0; task < n * chunks; ++task) {
        const int64_t i = task / chunks, first = task % chunks * kChunk;
        Acc *out = static_cast<Acc *>(out_) + i * s.k;
        const In *x = row<In>(s.x, i), *rows[kAtOnce];
        int64_t places[kAtOnce];
        Acc found[kAtOnce];
        int waiting = 0;
        for_entries<In>(s, i, first, least(first + kChunk, s.k), [&](int64_t k, int64_t j) {
            if (!names_a_row(s, j)) {
                out[k] = j == -1 ? -Acc(INFINITY) : Acc(NAN);
                return;
            }
            rows[waiting] = row<In>(s.y, j), places[waiting] = k;
            if (++waiting < kAtOnce) return;
            dots<kAtOnce>(x, rows, s.d, found);
            for (int q = 0; q < kAtOnce; ++q) out[places[q]] = scale * found[q];
            waiting = 0;
        });
        for (int q = 0; q < waiting; ++q) {
            dots<1>(x, rows + q, s.d, found);
            out[places[q]] = scale * found[0];
        }
    }
}

// Each row's part of `along` is added in the order of rows, so that the number of threads changes no bit.
template <class In> bool gradient_of_x_typed(const Sampled &s, const SampledGrad &of) {
    using Acc = typename Accumulator<In>::type;
    const int64_t n = s.x.count, d = s.d, room = round_up(2 * d * int64_t(sizeof(Acc)), 64);
    const int threads = threads_for(n * s.k * d, s.threads);
    Memory memory(room * threads);
    if (!memory.data) return false;
    char *rooms = memory.take(room * threads);
    if (of.out) fresh(of.out, n * d * int64_t(sizeof(In)));
    const double along = sum_in_blocks(n, threads, [&](int64_t i, int64_t end) {
        Acc *total = reinterpret_cast<Acc *>(rooms + omp_get_thread_num() * room);
        double along = 0;
        for (; i < end; ++i) {
            const Acc *g = static_cast<const Acc *>(of.grad) + i * s.k;
            bool wrong = false;
            WeightedSum<In, Acc> sum(total, total + d, d);
            for_entries<In>(s, i, 0, s.k, [&](int64_t k, int64_t j) {
                if (names_a_row(s, j))
                    sum.add(row<In>(s.y, j), g[k]);
                else if (j != -1)
                    wrong = true;
            });
            sum.finish();
            if (wrong)
                for (int64_t f = 0; f < d; ++f) total[f] = Acc(NAN);
            if (of.out) write_scaled(static_cast<In *>(of.out) + i * d, total, Acc(s.scale), d);
            if (of.along) {
                Acc product = 0;
                const In *x = row<In>(s.x, i);
                for (int64_t f = 0; f < d; ++f) product += widen<Acc>(x[f]) * total[f];
                along += double(product);
            }
        }
        return along;
    });
    if (of.along) *static_cast<Acc *>(of.along) = Acc(along);
    return true;
}

} // namespace
