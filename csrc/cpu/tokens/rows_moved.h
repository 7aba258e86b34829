// SPDX-License-Identifier: Apache-2.0
// Moves rows by index: gather, and its adjoint collect.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../memory.h"
#include "../threads.h"
#include "around.h"
#include "kernels.h"

namespace {

using sslkernels::kDone;
using sslkernels::kNoMemory;
using sslkernels::kWrongIndex;
using sslkernels::TokenIndex;
using sslkernels::TokenRows;

inline int64_t entry(const TokenIndex &index, int64_t at) {
    return index.wide ? static_cast<const int64_t *>(index.data)[at] : static_cast<const int32_t *>(index.data)[at];
}
template <class T> inline const T *token(const TokenRows &x, int64_t sample, int64_t place) {
    return static_cast<const T *>(x.data) + sample * x.sample_stride + place * x.row_stride;
}

// Writes out = in + add, rounded once. A null `in` or `add` counts as zero.
template <class In, class Out, class Acc>
void write_row(Out *out, const In *in, const Acc *add, int64_t d, bool around) {
    if constexpr (sizeof(In) == sizeof(Out)) {
        if (in && !add) return put(out, in, d * sizeof(Out), around);
    }
    constexpr int64_t kBlock = 512;
    alignas(64) Out block[kBlock];
    for (int64_t f = 0; f < d; f += kBlock) {
        const int64_t width = least(kBlock, d - f);
        if (in && add)
            for (int64_t k = 0; k < width; ++k) block[k] = narrow<Out>(Acc(widen<Acc>(in[f + k]) + add[f + k]));
        else if (in)
            for (int64_t k = 0; k < width; ++k) block[k] = narrow<Out>(widen<Acc>(in[f + k]));
        else if (add)
            for (int64_t k = 0; k < width; ++k) block[k] = narrow<Out>(add[f + k]);
        else
            memset(block, 0, width * sizeof(Out));
        put(out + f, block, width * sizeof(Out), around);
    }
}

// Leaves a row alone whose index is out of range.
template <class In, class Out>
int gather_typed(const TokenRows &x, const TokenIndex &index, int64_t length, const void *fill_, const void *pos_,
                 bool by_place, void *out_, int threads) {
    using Acc = typename Accumulator<In>::type;
    const Acc *fill = static_cast<const Acc *>(fill_), *pos = static_cast<const Acc *>(pos_);
    const int64_t d = x.d, P = x.prefix, rows = P + index.kept, samples = index.sets * index.batch;
    Out *out = static_cast<Out *>(out_);
    const int64_t bytes = samples * rows * d * int64_t(sizeof(Out));
    const bool around = fresh(out, bytes);
    int result = kDone;
#pragma omp parallel num_threads(threads_for(samples * rows * d, threads))
    {
        Memory memory(d * int64_t(sizeof(Acc)));
        Acc *both = reinterpret_cast<Acc *>(memory.take(d * int64_t(sizeof(Acc))));
#pragma omp for schedule(static) reduction(max : result)
        for (int64_t r = 0; r < samples * rows; ++r) {
            if (!memory.data) {
                result = kNoMemory;
                continue;
            }
            const int64_t sample = r / rows, place = r % rows;
            const int64_t i = place < P ? place - P : entry(index, sample * index.kept + place - P);
            const bool beyond = place >= P && i >= length;
            if ((place >= P && i < 0) || (beyond && !fill)) {
                result = kWrongIndex;
                continue;
            }
            const In *in = beyond ? nullptr : token<In>(x, sample % index.batch, P + i);
            const bool placed = pos && (by_place || (place >= P && !beyond));
            const Acc *add = placed ? pos + (by_place ? place : i) * d : nullptr;
            if (beyond && add) {
                for (int64_t k = 0; k < d; ++k) both[k] = fill[k] + add[k];
                add = both;
            } else if (beyond) {
                add = fill;
            }
            write_row<In, Out, Acc>(out + r * d, in, add, d, around);
        }
        done_around();
    }
    return result;
}

// Sorts the entries of a sample whose index is one of `count` rows from `first` on into a list for each row, in the
// order of entries.
struct Lists {
    int32_t *head, *next;
    bool fill(const TokenIndex &index, int64_t sample, int64_t first, int64_t count, int64_t length) const {
        bool inside = true;
        for (int64_t s = 0; s < count; ++s) head[s] = -1;
        for (int64_t e = index.sets * index.kept - 1; e >= 0; --e) {
            const int64_t m = e / index.kept, k = e % index.kept;
            const int64_t s = entry(index, (m * index.batch + sample) * index.kept + k);
            if (s < 0 || s >= length)
                inside = false;
            else if (s >= first && s < first + count)
                next[e] = head[s - first], head[s - first] = int32_t(e);
        }
        return inside;
    }
};

template <class In, class Out>
int collect_typed(const TokenRows &x, const TokenIndex &index, int64_t length, const void *fill_, bool strict,
                  void *out_, int threads) {
    using Acc = typename Accumulator<In>::type;
    const Acc *fill = static_cast<const Acc *>(fill_);
    const int64_t d = x.d, P = x.prefix, B = index.batch, K = index.kept, entries = index.sets * K;
    Out *out = static_cast<Out *>(out_);
    const bool around = fresh(out, B * (P + length) * d * int64_t(sizeof(Out)));
    const int T = threads_for(B * (P + length + entries) * d, threads);
    const int64_t parts = B >= 4 * T ? 1 : least((4 * T + B - 1) / (B > 0 ? B : 1), length > 0 ? length : 1);
    const int64_t longest = (length + parts - 1) / parts;
    int result = kDone;
#pragma omp parallel num_threads(T)
    {
        Memory memory(d * int64_t(sizeof(Acc)) + (longest + entries) * int64_t(sizeof(int32_t)) + 192);
        Acc *total = reinterpret_cast<Acc *>(memory.take(d * int64_t(sizeof(Acc))));
        const Lists lists = {reinterpret_cast<int32_t *>(memory.take(longest * int64_t(sizeof(int32_t)))),
                             reinterpret_cast<int32_t *>(memory.take(entries * int64_t(sizeof(int32_t))))};
        const auto row_of = [&](int64_t sample, int64_t e) { return token<In>(x, e / K * B + sample, P + e % K); };
#pragma omp for schedule(static) reduction(max : result)
        for (int64_t task = 0; task < B * parts; ++task) {
            if (!memory.data) {
                result = kNoMemory;
                continue;
            }
            const int64_t sample = task / parts, part = task % parts;
            const int64_t first = length * part / parts, count = length * (part + 1) / parts - first;
            Out *to = out + sample * (P + length) * d;
            for (int64_t p = 0; part == 0 && p < P; ++p) {
                for (int64_t k = 0; k < d; ++k) total[k] = 0;
                for (int64_t m = 0; m < index.sets; ++m) {
                    const In *in = token<In>(x, m * B + sample, p);
                    for (int64_t k = 0; k < d; ++k) total[k] += widen<Acc>(in[k]);
                }
                write_row<In, Out, Acc>(to + p * d, nullptr, total, d, around);
            }
            if (!lists.fill(index, sample, first, count, length) && strict) result = kWrongIndex;
            for (int64_t s = 0; s < count; ++s) {
                Out *row = to + (P + first + s) * d;
                int32_t e = lists.head[s];
                if (e < 0 || lists.next[e] < 0) {
                    write_row<In, Out, Acc>(row, e < 0 ? nullptr : row_of(sample, e), e < 0 ? fill : nullptr, d,
                                            around);
                    continue;
                }
                for (int64_t k = 0; k < d; ++k) total[k] = 0;
                for (; e >= 0; e = lists.next[e]) {
                    const In *in = row_of(sample, e);
                    for (int64_t k = 0; k < d; ++k) total[k] += widen<Acc>(in[k]);
                }
                write_row<In, Out, Acc>(row, nullptr, total, d, around);
            }
        }
        done_around();
    }
    return result;
}

template <class In>
int sums_typed(const TokenRows &x, const TokenIndex &index, int64_t length, void *out_, int threads) {
    using Acc = typename Accumulator<In>::type;
    const int64_t d = x.d, samples = index.sets * index.batch, K = index.kept;
    Acc *out = static_cast<Acc *>(out_);
    const int64_t T = least(threads_for(samples * K * d, threads), (d + 15) / 16);
    const int64_t width = round_up((d + T - 1) / T, 16);
    int result = kDone;
#pragma omp parallel for schedule(static) num_threads(T) reduction(max : result)
    for (int64_t f = 0; f < d; f += width) {
        const int64_t w = least(width, d - f);
        Memory memory(length * w * int64_t(sizeof(double)));
        if (!memory.data) {
            result = kNoMemory;
            continue;
        }
        double *totals = reinterpret_cast<double *>(memory.take(length * w * int64_t(sizeof(double))));
        memset(totals, 0, length * w * sizeof(double));
        for (int64_t r = 0; r < samples * K; ++r) {
            const int64_t s = entry(index, r);
            if (s < 0 || s >= length) continue;
            const In *in = token<In>(x, r / K, r % K) + f;
            double *total = totals + s * w;
            for (int64_t k = 0; k < w; ++k) total[k] += widen<double>(in[k]);
        }
        for (int64_t s = 0; s < length; ++s)
            for (int64_t k = 0; k < w; ++k) out[s * d + f + k] = Acc(totals[s * w + k]);
    }
    return result;
}

inline int patches_of(int64_t size, const char *images, int64_t channels, int64_t down, int64_t across, int64_t patch,
                      const TokenIndex &index, char *out, int threads) {
    const int64_t line = across * patch * size, piece = patch * size, row = channels * patch * piece;
    int result = kDone;
#pragma omp parallel for schedule(static) reduction(max : result)                                                      \
    num_threads(threads_for(index.batch *index.kept *row / 4, threads))
    for (int64_t r = 0; r < index.batch * index.kept; ++r) {
        const int64_t i = entry(index, r);
        if (i < 0 || i >= down * across) {
            result = kWrongIndex;
            continue;
        }
        const char *from =
            images + r / index.kept * channels * down * patch * line + i / across * patch * line + i % across * piece;
        char *to = out + r * row;
        for (int64_t c = 0; c < channels; ++c, from += down * patch * line)
            for (int64_t y = 0; y < patch; ++y, to += piece) memcpy(to, from + y * line, piece);
    }
    return result;
}

} // namespace
