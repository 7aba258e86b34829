// SPDX-License-Identifier: Apache-2.0
// Computes a loss of the columns' moments and its gradient: moments, matrix, energies, the numbers of each column,
// rows.
//
//   loss = agreement sum_j (1 - diagonal_j / N)^2  +  gap mean (z0 - z1)^2  +  off sum off / (M^2 D^power)
//          + hinge sum_v mean_j max(0, 1 - sqrt(squares_vj / (N - 1) + hinge_eps))
//
// M is N for standardised columns and N - 1 for others. sslkernels/ops/correlation/composed.py has the same in PyTorch,
// with the reasons.
#pragma once
#include "gradient.h"

namespace {

using sslkernels::CorrelationLoss;

// Returns a power of two near 1 / sqrt(x), which fp32 holds for any x. That of NaN is NaN.
inline double unit_of(double x) {
    if (x != x) return x;
    const double bounded = x < 0x1p-240 ? 0x1p-240 : x > 0x1p240 ? 0x1p240 : x;
    uint64_t bits;
    memcpy(&bits, &bounded, 8);
    const int64_t exponent = int64_t(bits >> 52) - 1023;
    bits = uint64_t(1023 - ((exponent + 1) >> 1)) << 52;
    double unit;
    memcpy(&unit, &bits, 8);
    return unit;
}

// Rounds a coefficient. An infinite one becomes the largest number, which times 0 is 0.
template <class Acc> inline Acc coefficient(double x) {
    const double largest = sizeof(Acc) == sizeof(double) ? 0x1.fffffffffffffp1023 : 0x1.fffffep127;
    return Acc(x > largest ? largest : x < -largest ? -largest : x);
}

template <class P, class In> struct LossOfColumns {
    using Acc = typename P::Acc;

    const CorrelationLoss &l;
    const int64_t n = l.views[0].count, d = l.d;
    const int views = l.views[1].data ? 2 : 1;
    const bool cross = l.energy == sslkernels::kCross, product = l.energy != sslkernels::kNone;
    const bool scaled = l.standardised, units = product && !scaled;
    const int matrices = !product ? 0 : l.samples ? views : cross ? 1 : views;
    const int64_t each = views * d, whole = l.samples ? n * n : d * d;
    // These are fp64 numbers by column. `factor`, a scale or a unit, brings a column near 1; `sums` are energies.
    double *squares, *products, *factor, *through, *diagonal, *sums;
    // `columns` is the rounded factor, and `standard` what the columns of the matrix are multiplied with.
    Acc *mean, *columns, *standard, *matrix;
    Acc *outer, *own, *mixed, *within;
    double gap = 0, smallest[2] = {1, 1}, off[2] = {0, 0}; // smallest: the unit of K or C
    double off_weight = 0;
    // Small losses run in one thread from end to end.
    const int threads = product ? threads_for_products(n * d * least(n, d), l.threads) : l.threads;

    int64_t bytes() const {
        return each * (6 * int64_t(sizeof(double)) + 8 * int64_t(sizeof(Acc))) +
               matrices * whole * int64_t(sizeof(Acc)) + 16 * 64;
    }
    void place(Memory &memory) {
        const auto take = [&](auto *&at, int64_t count) {
            at = reinterpret_cast<decltype(at + 0)>(memory.take(count * int64_t(sizeof *at)));
        };
        take(squares, each), take(products, each), take(factor, each);
        take(through, each), take(diagonal, each), take(sums, each);
        take(mean, 2 * each), take(columns, each), take(standard, each);
        take(outer, each), take(own, each), take(mixed, each), take(within, each);
        take(matrix, matrices * whole);
    }
    Columns view(int v, const Acc *scale) const { return {l.views[v], d, mean + 2 * v * d, scale + v * d}; }

    // Finds the columns' factors, the sums of a b (crossed) or of a a over rows, and the derivative of the scales:
    // through = 2 (d scale / d variance) / (scale^2 rows).
    void standardise_all() {
        const double divisor = double(l.unbiased ? n - 1 : n);
        for (int v = 0; v < views; ++v) {
            double *f = factor + v * d, *t = through + v * d;
            const double *square = squares + v * d;
            for (int64_t j = 0; scaled && j < d; ++j) {
                const double variance = square[j] / divisor;
                const double root = l.outside ? sqrt(variance) : sqrt(variance + l.eps);
                const double length = l.outside ? root + l.eps : root;
                f[j] = l.eps > 0 || length != 0 ? 1 / length : 1;
                // A constant column has s = 0. Its standard deviation has no derivative, and 0 is as good as any
                // number.
                t[j] = !l.outside ? f[j] / -divisor : root == 0 ? 0 : -1 / (divisor * root);
            }
            if (!scaled) take_units(v);
            for (int64_t j = 0; j < d; ++j) columns[v * d + j] = Acc(f[j]);
            for (int64_t j = 0; j < d; ++j)
                standard[v * d + j] = units && l.samples ? Acc(smallest[v]) : columns[v * d + j];
        }
        for (int64_t j = 0; cross && j < d; ++j) diagonal[j] = products[j] * (factor[j] * factor[d + j]);
        for (int64_t j = 0; !cross && j < each; ++j)
            diagonal[j] = scaled ? squares[j] * (factor[j] * factor[j]) : squares[j];
    }
    // On the side of samples each column has its unit, and K that of the largest. On the side of features all have one.
    void take_units(int v) {
        double *f = factor + v * d;
        const double *square = squares + v * d;
        double most = square[0];
        for (int64_t j = 1; j < d; ++j)
            if (square[j] > most || square[j] != square[j]) most = square[j];
        smallest[v] = units ? unit_of(most) : 1;
        for (int64_t j = 0; j < d; ++j) f[j] = units && l.samples ? unit_of(square[j]) : smallest[v];
    }
    bool multiply_all() {
        for (int m = 0; m < matrices; ++m) {
            Acc *out = matrix + m * whole;
            const Columns a = view(m, standard), b = view(cross ? 1 : m, standard);
            if (!(l.samples ? samples_typed<Acc, In>(a, 0, n, out, threads)
                            : features_typed<P, In>(a, b, !cross, out, threads)))
                return false;
        }
        return true;
    }
    // Finds `off`, the energy off the diagonal of the matrices, and on the side of features its share for each column.
    bool take_energies() {
        const int64_t side = l.samples ? n : d;
        for (int v = 0; product && v < (cross ? 1 : views); ++v) {
            const Acc *x = matrix + v * whole, *y = cross && l.samples ? matrix + whole : x;
            double total = 0;
            if (!energies_typed<Acc>(x, y, side, side, l.samples ? nullptr : sums + v * d,
                                     cross && !l.samples ? sums + d : nullptr, l.samples ? &total : nullptr, threads))
                return false;
            double along = 0; // the share of the diagonal, which K's energy has too
            for (int64_t j = 0; j < d; ++j) {
                const double here = diagonal[v * d + j];
                if (l.samples)
                    along += here * here;
                else
                    total += sums[v * d + j];
            }
            if (units) total *= lift(v) * lift(v);
            off[v] = total - along;
            if (l.samples && off[v] < 0) off[v] = 0;
        }
        return true;
    }
    double lift(int v) const { return 1 / (smallest[v] * smallest[v]); }

    double value() {
        const double rows = double(n), features = double(d), count = scaled ? rows : rows - 1;
        double scattered = 0, hinges = 0;
        for (int64_t j = 0; cross && j < d; ++j) {
            const double missing = 1 - diagonal[j] / rows;
            scattered += missing * missing;
        }
        for (int64_t j = 0; l.hinge != 0 && j < each; ++j) {
            const double short_of = 1 - sqrt(squares[j] / (rows - 1) + l.hinge_eps);
            hinges += short_of <= 0 ? 0 : short_of; // NaN passes
        }
        off_weight = l.off / (count * count);
        for (int64_t k = 0; k < l.power; ++k) off_weight /= features;
        return l.agreement * scattered + l.gap * gap / (rows * features) + l.hinge * hinges / features +
               off_weight * (off[0] + off[1]);
    }

    // dz = outer da + (own + within sum_n da a) a + mixed b + pull (z - z'); composed.py derives the coefficients.
    void take_coefficients() {
        const double rows = double(n), slope = (cross ? 2 : 4) * off_weight;
        for (int v = 0; v < views; ++v)
            for (int64_t j = 0; j < d; ++j) {
                const int64_t at = v * d + j, shared = cross ? j : at;
                const double f = factor[at], there = diagonal[shared];
                double along = cross ? -2 * l.agreement * (1 - there / rows) / rows : 0, share = 0;
                if (l.samples && product)
                    along -= slope * there;
                else if (product)
                    share = slope * sums[at];
                double mine = l.hinge != 0 ? 2 * hinge_slope(squares[at]) : 0;
                if (!cross && l.samples && product) mine += scaled ? f * f * along : along;
                mine /= f;
                if (scaled) mine += through[at] * (share + along * there);
                outer[at] = coefficient<Acc>(slope * (units ? lift(v) / f : f));
                own[at] = coefficient<Acc>(mine);
                mixed[at] = coefficient<Acc>(f * along);
                within[at] = coefficient<Acc>(through[at] * slope);
            }
    }
    double hinge_slope(double square) const {
        const double count = double(n - 1), root = sqrt(square / count + l.hinge_eps);
        return 1 - root <= 0 ? 0 : l.hinge / double(d) * (-0.5 / root) / count;
    }
    bool gradient() const {
        CorrelationGrad g{l.dtype, l.compute, {}, 0, n, l.samples, cross, {}, {}, own, {}, {}, 0, true, {}, threads};
        for (int v = 0; v < views; ++v) {
            g.views[v] = view(v, columns);
            const int used = !cross ? v : l.samples ? 1 - v : 0;
            g.matrix[v] = product ? matrix + used * whole : nullptr;
            g.out[v] = l.gradients[v];
        }
        g.outer = product ? outer : nullptr;
        g.mixed = cross ? mixed : nullptr;
        g.through = product && l.samples && scaled ? within : nullptr;
        g.pull = double(Acc(2 * l.gap / (double(n) * double(d))));
        return gradient_typed<P, In>(g);
    }
};

template <class P, class In> bool loss_typed(const CorrelationLoss &l) {
    using Acc = typename P::Acc;
    LossOfColumns<P, In> job{l};
    Memory memory(job.bytes());
    if (!memory.data) return false;
    job.place(memory);
    if (!moments_typed<In, Acc>(l.views, job.views, l.d, true, job.mean, job.squares, job.products, &job.gap,
                                job.threads))
        return false;
    job.standardise_all();
    if (!job.multiply_all() || !job.take_energies()) return false;
    *static_cast<Acc *>(l.value) = Acc(job.value());
    if (!l.gradients[0] && !l.gradients[1]) return true;
    job.take_coefficients();
    return job.gradient();
}

} // namespace
