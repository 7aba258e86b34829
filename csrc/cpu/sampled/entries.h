// SPDX-License-Identifier: Apache-2.0
// Reads the pairs that an index names, and adds up rows times weights.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../row_access.h"
#include "../vector.h"
#include "kernels.h"
#include <math.h>
#include <string.h>

namespace {

using sslkernels::Sampled;
using sslkernels::SampledGrad;

constexpr int kAtOnce = 8; // rows that a loop over features reads side by side
constexpr int kAhead = 12; // rows between the one that is read and the one that is asked for

inline int64_t entry(const Sampled &s, int64_t at) {
    return s.wide ? static_cast<const int64_t *>(s.index)[at] : static_cast<const int32_t *>(s.index)[at];
}
inline bool names_a_row(const Sampled &s, int64_t j) { return j >= 0 && j < s.y.count; }

// Asks for a row that will be read soon. Its lines come to the second cache: there is room for more of them on the way
// to it than on the way to the first.
template <class In> inline void ask_for(const In *row, int64_t d) {
    const char *line = reinterpret_cast<const char *>(row), *end = reinterpret_cast<const char *>(row + d);
    for (; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// Reads a vector of numbers in the type of the sums.
inline Vector<float> wide_load(const float *p) { return load(p); }
inline Vector<double> wide_load(const double *p) { return load(p); }
typedef uint16_t Halves __attribute__((vector_size(SSLK_VECTOR_BYTES / 2)));
template <class Half> inline VectorOf<float>::bits wide_bits(const Half *p) {
    Halves bits;
    memcpy(&bits, p, sizeof bits);
    return __builtin_convertvector(bits, VectorOf<float>::bits);
}
inline Vector<float> wide_load(const bf16 *p) { return (Vector<float>)(wide_bits(p) << 16); }
inline Vector<float> wide_load(const f16 *p) { // widen() says why
    typedef VectorOf<float>::bits Bits;
    const Bits bits = wide_bits(p);
    const Vector<float> magnitude = (Vector<float>)((bits & 0x7fff) << 13) * all<float>(0x1p112f);
    const Bits infinite = (Bits)(magnitude >= all<float>(65536.0f)) & 0x7f800000u;
    return (Vector<float>)((Bits)magnitude | infinite | (bits & 0x8000) << 16);
}

// Adds weight[q] * row[q] for q < count to a total of d numbers, in that order for each number.
template <int kCount, class In, class Acc>
inline void add_exactly(Acc *total, const In *const *row, const Acc *weight, int64_t d) {
    constexpr int L = kLanes<Acc>;
    int64_t f = 0;
    for (; f + L <= d; f += L) {
        Vector<Acc> sum = load(total + f);
        for (int q = 0; q < kCount; ++q) sum += wide_load(row[q] + f) * weight[q];
        store(total + f, sum);
    }
    for (; f < d; ++f) {
        Acc sum = total[f];
        for (int q = 0; q < kCount; ++q) sum += widen<Acc>(row[q][f]) * weight[q];
        total[f] = sum;
    }
}

// Waits for kAtOnce weighted rows before it adds them to a total. Sums of many are in two levels, so that a long sum
// loses few digits. The order depends on nothing but the order of the rows.
template <class In, class Acc> class WeightedSum {
    static constexpr int kSegment = 256; // rows in a sum of the first level
    Acc *const total_, *const part_;
    const int64_t d_;
    const In *rows_[kAtOnce];
    Acc weights_[kAtOnce];
    int waiting_ = 0, in_part_ = 0;

    void flush() {
        if (waiting_ == kAtOnce)
            add_exactly<kAtOnce>(part_, rows_, weights_, d_);
        else
            for (int q = 0; q < waiting_; ++q) add_exactly<1>(part_, rows_ + q, weights_ + q, d_);
        in_part_ += waiting_, waiting_ = 0;
    }
    void end_part() {
        for (int64_t f = 0; f < d_; ++f) total_[f] += part_[f], part_[f] = 0;
        in_part_ = 0;
    }

  public:
    // Both buffers hold d numbers.
    WeightedSum(Acc *total, Acc *part, int64_t d) : total_(total), part_(part), d_(d) {
        memset(total_, 0, d * sizeof(Acc)), memset(part_, 0, d * sizeof(Acc));
    }
    void add(const In *row, Acc weight) {
        rows_[waiting_] = row, weights_[waiting_] = weight;
        if (++waiting_ < kAtOnce) return;
        flush();
        if (in_part_ == kSegment) end_part();
    }
    void finish() { flush(), end_part(); }
};

template <class In, class Acc> inline void write_scaled(In *out, const Acc *total, Acc scale, int64_t d) {
    for (int64_t f = 0; f < d; ++f) out[f] = narrow<In>(Acc(scale * total[f]));
}

} // namespace
