// SPDX-License-Identifier: Apache-2.0
// The two halves of a Sinkhorn step on a table: log-sum-exps of its columns, and how much of all rows each prototype
// gets.
#pragma once
#include "../memory.h"
#include "rows.h"

namespace {

using sslkernels::Spread;

// A thread owns columns. It takes a few rows at a time, and rescales a column's total where its peak moves.
template <class T> void columns_typed(const Table &t, const void *weights, void *peaks, void *totals) {
    constexpr int64_t kRows = 8;
    const int64_t K = t.prototypes, vectors = (K + kLanes<T> - 1) / kLanes<T>;
    const T *table = static_cast<const T *>(t.products), *w = static_cast<const T *>(weights);
    T *peak = static_cast<T *>(peaks), *total = static_cast<T *>(totals);
    const T scale = T(t.scale);
#pragma omp parallel num_threads(threads_for(t.rows *K, t.threads))
    {
        const int64_t id = omp_get_thread_num(), threads = omp_get_num_threads();
        const int64_t begin = vectors * id / threads * kLanes<T>,
                      end = least(vectors * (id + 1) / threads * kLanes<T>, K);
        for (int64_t first = 0; first < t.rows; first += kRows) {
            const T *rows[kRows];
            T counts[kRows];
            int64_t taken = 0;
            for (int64_t i = first; i < least(first + kRows, t.rows); ++i) {
                if (w && w[i] == 0) continue; // such a row may hold anything
                rows[taken] = table + i * K, counts[taken++] = w ? w[i] : T(1);
            }
            for (int64_t k = begin; k < end; k += kLanes<T>) {
                Vector<T> x[kRows], most = load_some(peak + k, end - k, kLowestLogit<T>);
                const Vector<T> before = most;
                for (int64_t r = 0; r < taken; ++r) {
                    x[r] = load_some(rows[r] + k, end - k, T(0)) * scale;
                    most = larger<T>(most, x[r]);
                }
                Vector<T> s = load_some(total + k, end - k, T(0)) * expv(before - most);
                for (int64_t r = 0; r < taken; ++r) s += expv(x[r] - most) * counts[r];
                store_some(peak + k, most, end - k), store_some(total + k, s, end - k);
            }
        }
    }
}

// A thread owns rows, and the mass that it found.
template <class T> bool spread_typed(const Table &t, const Spread &s, void *mass) {
    const int64_t K = t.prototypes, threads = threads_for(t.rows * K, t.threads);
    const int64_t each = round_up(K * int64_t(sizeof(T)), 64);
    Memory memory(2 * threads * each);
    if (!memory.data) return false;
    for (int64_t id = 0; id < threads; ++id) memset(memory.data + (2 * id + 1) * each, 0, each);
    const T *table = static_cast<const T *>(t.products), *w = static_cast<const T *>(s.weights);
#pragma omp parallel num_threads(threads)
    {
        const int64_t id = omp_get_thread_num();
        T *row = reinterpret_cast<T *>(memory.data + (2 * id) * each);
        T *found = reinterpret_cast<T *>(memory.data + (2 * id + 1) * each);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < t.rows; ++i) {
            if (w && w[i] == 0) continue;
            const Logits<T> logits{table + i * K, static_cast<const T *>(s.bias), K, T(t.scale)};
            const double total = logits.exponentials(logits.top(), row);
            const T factor = T((w ? double(w[i]) : 1.0) / total);
            for (int64_t k = 0; k < K; ++k) found[k] += row[k] * factor;
        }
    }
    T *to = static_cast<T *>(mass);
    for (int64_t id = 0; id < threads; ++id) {
        const T *found = reinterpret_cast<T *>(memory.data + (2 * id + 1) * each);
        for (int64_t k = 0; k < K; ++k) to[k] += found[k];
    }
    return true;
}

} // namespace
