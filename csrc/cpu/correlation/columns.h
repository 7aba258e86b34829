// SPDX-License-Identifier: Apache-2.0
// Computes moments of the columns of one or two views, and standardises blocks of columns on their way to a product.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../memory.h"
#include "../row_access.h"
#include "../threads.h"
#include "../vector.h"
#include "kernels.h"

namespace {

using sslkernels::Columns;

constexpr int kSegment = 32; // rows that are summed in Acc and then merged in fp64; squares are right to an ulp or two

// The running mean and sum of squares of some columns, and the sum of products of two views. Segments merge exactly
// (Chan et al. 1979). A mean summed in fp32 is inexact where a column lies far from zero; the mean of the distances
// from it corrects it and the squares. In fp64, sums are of distances from the first row, the pivot, so that a constant
// column gives zeros.
template <class In, class Acc, int kWidest> struct ColumnBlock {
    static constexpr bool kPivoted = sizeof(Acc) == sizeof(double);
    double mean[2][kWidest] = {}, squares[2][kWidest] = {}, products[kWidest] = {}, gap[kWidest] = {};
    Acc pivot[2][kWidest] = {};
    int64_t seen = 0;

    ColumnBlock(const Rows *views, int count, bool centre, int64_t f, int64_t width) {
        const int64_t n = views[0].count;
        for (int v = 0; kPivoted && centre && v < count; ++v)
            for (int64_t k = 0; k < width; ++k) pivot[v][k] = widen<Acc>(row<In>(views[v], 0)[f + k]);
        for (int64_t first = 0; first < n; first += kSegment)
            take(views, count, centre, first, least(kSegment, n - first), f, width);
    }
    Acc moved(int v, int64_t k, Acc z) const { return kPivoted ? z - pivot[v][k] : z; }
    void take(const Rows *views, int count, bool centre, int64_t first, int64_t rows, int64_t f, int64_t width) {
        Acc middle[2][kWidest] = {}, square[2][kWidest] = {}, left[2][kWidest] = {};
        Acc product[kWidest] = {}, apart[kWidest] = {};
        for (int v = 0; centre && v < count; ++v) {
            for (int64_t r = 0; r < rows; ++r) {
                const In *z = row<In>(views[v], first + r) + f;
                for (int64_t k = 0; k < width; ++k) middle[v][k] += moved(v, k, widen<Acc>(z[k]));
            }
            for (int64_t k = 0; k < width; ++k) middle[v][k] /= Acc(rows);
        }
        for (int64_t r = 0; r < rows; ++r) {
            const In *z0 = row<In>(views[0], first + r) + f;
            if (count == 1) {
                for (int64_t k = 0; k < width; ++k) {
                    const Acc a = moved(0, k, widen<Acc>(z0[k])) - middle[0][k];
                    square[0][k] += a * a, left[0][k] += a;
                }
                continue;
            }
            const In *z1 = row<In>(views[1], first + r) + f;
            for (int64_t k = 0; k < width; ++k) {
                const Acc x = widen<Acc>(z0[k]), y = widen<Acc>(z1[k]);
                const Acc a = moved(0, k, x) - middle[0][k], b = moved(1, k, y) - middle[1][k], c = x - y;
                square[0][k] += a * a, square[1][k] += b * b, product[k] += a * b, apart[k] += c * c;
                left[0][k] += a, left[1][k] += b;
            }
        }
        const double share = double(rows) / double(seen + rows), weight = double(seen) * share;
        for (int64_t k = 0; k < width; ++k) {
            double off[2] = {0, 0}, away[2] = {0, 0}; // distances from the segment's mean and from the mean so far
            for (int v = 0; v < count && centre; ++v) {
                off[v] = double(left[v][k]) / double(rows);
                away[v] = double(middle[v][k]) + off[v] - mean[v][k];
                mean[v][k] += away[v] * share;
            }
            for (int v = 0; v < count; ++v)
                squares[v][k] += double(square[v][k]) - off[v] * off[v] * double(rows) + away[v] * away[v] * weight;
            products[k] += double(product[k]) - off[0] * off[1] * double(rows) + away[0] * away[1] * weight;
            gap[k] += double(apart[k]);
        }
        seen += rows;
    }
    // Says whether fp32 held the squares of column k: they are neither near the ends of its range nor mere rounding
    // errors of a mean that is far larger. The bounds leave room for products with the other view. NaN does not count
    // as held.
    bool held(int count, int64_t k) const {
        bool all = gap[k] < 0x1p120;
        for (int v = 0; v < count; ++v) {
            const double middle = mean[v][k] * 0x1p-18, floor = middle * middle + 0x1p-100;
            all = all && squares[v][k] > floor * double(seen) && squares[v][k] < 0x1p120;
        }
        return all;
    }
};

// Writes the moments of all columns. Squares are fp64, because the square of 1e30 is beyond fp32 and a loss that
// divides by it is not.
template <class In, class Acc>
bool moments_typed(const Rows *views, int count, int64_t d, bool centre, Acc *mean, double *squares, double *products,
                   double *gap, int threads) {
    constexpr int kWidest = 256, kAgain = 16;
    const int64_t n = views[0].count, T = threads_for(n * d * count, threads);
    const int64_t even = round_up((d + 2 * T - 1) / (2 * T), 16), width = least(even, kWidest);
    const int64_t blocks = (d + width - 1) / width;
    Memory memory(blocks * int64_t(sizeof(double)));
    if (!memory.data) return false;
    double *gaps = reinterpret_cast<double *>(memory.take(blocks * int64_t(sizeof(double))));
#pragma omp parallel for schedule(static) num_threads(T)
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t f = b * width, w = least(width, d - f);
        double apart = 0;
        const auto write = [&](const auto &block, int64_t k, int64_t at) {
            for (int v = 0; v < count; ++v) {
                const double pivot = block.pivot[v][k], rounded = Acc(pivot + block.mean[v][k]);
                mean[2 * v * d + at] = Acc(rounded);
                mean[(2 * v + 1) * d + at] = Acc((pivot - rounded) + block.mean[v][k]);
                squares[v * d + at] = block.squares[v][k];
            }
            if (count == 2) products[at] = block.products[k], apart += block.gap[k];
        };
        const ColumnBlock<In, Acc, kWidest> block(views, count, centre, f, w);
        for (int64_t from = 0; from < w; from += kAgain) {
            const int64_t end = least(from + kAgain, w);
            bool held = true;
            if constexpr (sizeof(Acc) < sizeof(double))
                for (int64_t k = from; k < end; ++k) held = held && block.held(count, k);
            if (held) {
                for (int64_t k = from; k < end; ++k) write(block, k, f + k);
            } else { // mostly a dead column and its neighbours in a cache line
                const ColumnBlock<In, double, kAgain> again(views, count, centre, f + from, end - from);
                for (int64_t k = from; k < end; ++k) write(again, k - from, f + k);
            }
        }
        gaps[b] = apart;
    }
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b) total += gaps[b];
    *gap = total;
    return true;
}

// Returns z - mean, where mean is (2, d). Once z - mean[k] has cancelled, the digits count that rounding took from the
// mean. Without them, columns far from zero would not be centred, and their gradients would have a part along the
// vector of ones.
template <class Acc, class In> inline Acc centred(In z, const Acc *mean, int64_t d, int64_t k) {
    return (widen<Acc>(z) - mean[k]) - mean[d + k];
}

// Standardises `count` features of a row, from feature f. Where the count is fixed this is one vector loop without
// checks.
template <class In, class Out, class Acc>
inline void standardise(const Columns &a, const In *__restrict z, int64_t f, int64_t count, Out *__restrict out) {
    const Acc *__restrict mean = static_cast<const Acc *>(a.mean), *__restrict scale =
                                                                       static_cast<const Acc *>(a.scale);
    if (mean)
        for (int64_t k = 0; k < count; ++k)
            out[k] = narrow<Out>(Acc(centred<Acc>(z[k], mean, a.d, f + k) * scale[f + k]));
    else
        for (int64_t k = 0; k < count; ++k) out[k] = narrow<Out>(widen<Acc>(z[k]));
}

// Writes a of row first + r and feature f + k to out[r][k], and zeros from `width` to `ld`.
template <class In, class Out, class Acc>
void stage(const Columns &a, int64_t first, int64_t rows, int64_t f, int64_t width, Out *out, int64_t ld) {
    constexpr int64_t W = kLanes<Acc>;
    for (int64_t r = 0; r < rows; ++r, out += ld) {
        const In *z = row<In>(a.rows, first + r) + f;
        int64_t k = 0;
        for (; k + W <= width; k += W) standardise<In, Out, Acc>(a, z + k, f + k, W, out + k);
        if (k < width) standardise<In, Out, Acc>(a, z + k, f + k, width - k, out + k);
        if (width < ld) memset(out + width, 0, (ld - width) * sizeof(Out));
    }
}

} // namespace
