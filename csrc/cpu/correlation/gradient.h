// SPDX-License-Identifier: Apache-2.0
// Computes dz = outer * da + (own + through * sum_n da a) * a + mixed * b + pull * (z - z') in one pass over the rows.
// Here a and b are the columns of this view and of the other, standardised again as they are read, and da is a product
// with the small matrix:
//   samples    da = K a           a thread takes all rows of a chunk of features, so it has sum_n da a before dz
//   features   da = b off(C)^T    a thread takes all features of a chunk of rows
#pragma once
#include "../huge_pages.h"
#include "products.h"

namespace {

using sslkernels::CorrelationGrad;

template <class P, class In> struct ColumnGradient {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int64_t NR = P::NR, MR = P::MR;
    static constexpr int64_t kPass = 512; // elements of k that are multiplied before da is read and written again

    const CorrelationGrad &g;
    int64_t n, d, steps; // steps: of the sum over rows or over features, padded to kBlock
    Elem *weights[2];

    static constexpr int64_t padded_steps(int64_t k) { return round_up(k, kBlock) / P::kPack; }
    int views() const { return g.views[1].rows.data ? 2 : 1; }

    // Writes dz of `rows` rows from `from`, counted among those that receive a gradient, and of `width` features from
    // f.
    void finish(int v, const Acc *da, int64_t ld, int64_t from, int64_t rows, int64_t f, int64_t width) const {
        constexpr int64_t kSpan = 512;
        const Columns &z = g.views[v], &other = g.views[views() - 1 - v];
        const Acc *outer = static_cast<const Acc *>(g.outer), *own = static_cast<const Acc *>(g.own);
        const Acc *mixed = static_cast<const Acc *>(g.mixed), *through = static_cast<const Acc *>(g.through);
        const Acc *mean = static_cast<const Acc *>(z.mean), *other_mean = static_cast<const Acc *>(other.mean);
        const Acc *scale = static_cast<const Acc *>(z.scale), *other_scale = static_cast<const Acc *>(other.scale);
        const Acc pull = Acc(g.pull);
        for (int64_t s = 0; s < width; s += kSpan) {
            const int64_t w = least(kSpan, width - s), at = f + s;
            Acc weight[kSpan], sums[kSpan] = {};
            if (da && through)
                for (int64_t r = 0; r < rows; ++r) {
                    const In *in = row<In>(z.rows, g.first + from + r) + at;
                    for (int64_t k = 0; k < w; ++k)
                        sums[k] += da[r * ld + s + k] * (centred<Acc>(in[k], mean, d, at + k) * scale[at + k]);
                }
            for (int64_t k = 0; k < w; ++k)
                weight[k] = own ? own[v * d + at + k] + (through ? through[v * d + at + k] * sums[k] : Acc(0)) : Acc(0);
            for (int64_t r = 0; r < rows; ++r) {
                const In *in = row<In>(z.rows, g.first + from + r) + at;
                const In *there = row<In>(other.rows, g.first + from + r) + at;
                const int64_t to = (from + r) * d + at;
                Acc dz[kSpan];
                // One loop adds what is usual, so that dz need not be stored in between.
                const auto add = [&](auto start) {
                    const auto mine = [&](int64_t k) {
                        return start(k) + weight[k] * (centred<Acc>(in[k], mean, d, at + k) * scale[at + k]);
                    };
                    if (mixed)
                        for (int64_t k = 0; k < w; ++k)
                            dz[k] = mine(k) + mixed[v * d + at + k] *
                                                  (centred<Acc>(there[k], other_mean, d, at + k) * other_scale[at + k]);
                    else
                        for (int64_t k = 0; k < w; ++k) dz[k] = mine(k);
                };
                if (!own)
                    memcpy(dz, da + r * ld + s, w * sizeof(Acc));
                else if (da)
                    add([&](int64_t k) { return da[r * ld + s + k] * outer[v * d + at + k]; });
                else
                    add([](int64_t) { return Acc(0); });
                if (own && pull != 0)
                    for (int64_t k = 0; k < w; ++k) dz[k] += pull * (widen<Acc>(in[k]) - widen<Acc>(there[k]));
                if (g.widened)
                    memcpy(static_cast<Acc *>(g.out[v]) + to, dz, w * sizeof(Acc));
                else
                    for (int64_t k = 0; k < w; ++k) static_cast<In *>(g.out[v])[to + k] = narrow<In>(dz[k]);
            }
        }
    }

    // Packs row r of K, the weights, for the left side.
    void take_rows(int v, int64_t r) const {
        Staged<P> *out = reinterpret_cast<Staged<P> *>(weights[v] + r * steps);
        const Acc *in = static_cast<const Acc *>(g.matrix[v]) + r * n;
        for (int64_t k = 0; k < n; ++k) out[k] = narrow<Staged<P>>(in[k]);
        memset(out + n, 0, (steps * P::kPack - n) * sizeof *out);
    }
    // Packs a panel of off(C), or of its transpose, for the right side as [panel][step][NR].
    void take_panel(int v, int64_t panel) const {
        constexpr int64_t kSpan = 64; // steps; a block of them fits the first-level cache
        const bool turn = g.cross && v == 0;
        const Acc *c = static_cast<const Acc *>(g.matrix[v]);
        const int64_t f = panel * NR, width = least(NR, d - f);
        Staged<P> block[kSpan * NR];
        for (int64_t k0 = 0; k0 < d; k0 += kSpan) {
            const int64_t count = least(kSpan, d - k0);
            if (turn)
                for (int64_t j = 0; j < width; ++j)
                    for (int64_t k = 0; k < count; ++k) block[k * NR + j] = narrow<Staged<P>>(c[(f + j) * d + k0 + k]);
            else
                for (int64_t k = 0; k < count; ++k)
                    for (int64_t j = 0; j < width; ++j) block[k * NR + j] = narrow<Staged<P>>(c[(k0 + k) * d + f + j]);
            for (int64_t j = f > k0 ? f : k0; j < least(f + width, k0 + count); ++j)
                block[(j - k0) * NR + j - f] = narrow<Staged<P>>(Acc(0));
            pack_features<P, Staged<P>>({block, NR, count}, 0, count, width,
                                        weights[v] + panel * steps * NR + k0 / P::kPack * NR);
        }
    }
    // Multiplies left (rows, steps) by right (panels of (steps, NR)) into da (rows, panels * NR), over `count`
    // elements.
    static void multiply_block(const Elem *left, int64_t ld_left, const Elem *right, int64_t ld_right, int64_t count,
                               int64_t rows, int64_t panels, Acc *da) {
        const int64_t ld = panels * NR;
        memset(da, 0, rows * ld * sizeof(Acc));
        for (int64_t k = 0; k < count; k += kPass)
            for (int64_t p = 0; p < panels; ++p)
                for (int64_t m = 0; m < rows; m += MR)
                    grad_tile<P>(left + m * ld_left + k / P::kPack, ld_left, 1,
                                 right + p * ld_right + k / P::kPack * NR, steps_for<P>(least(kPass, count - k)),
                                 da + m * ld + p * NR, ld, int(least(MR, rows - m)), 3);
    }
    void by_features(int v, int64_t panel, int64_t panels, char *memory) const {
        const int64_t f = panel * NR, width = least(panels * NR, d - f);
        Elem *right = reinterpret_cast<Elem *>(memory);
        Acc *da = reinterpret_cast<Acc *>(memory + round_up(panels * steps * NR * int64_t(sizeof(Elem)), 64));
        Staged<P> block[kBlock * NR];
        for (int64_t p = 0; p < panels; ++p)
            for (int64_t r = 0; r < n; r += kBlock) {
                const int64_t count = least(kBlock, n - r), w = least(NR, width - p * NR);
                stage<In, Staged<P>, Acc>(g.views[v], r, count, f + p * NR, w, block, NR);
                pack_features<P, Staged<P>>({block, NR, count}, 0, count, w,
                                            right + p * steps * NR + r / P::kPack * NR);
            }
        multiply_block(weights[v], steps, right, steps * NR, n, g.count, panels, da);
        finish(v, da, panels * NR, 0, g.count, f, width);
    }
    void by_rows(int v, int64_t from, int64_t rows, char *memory) const {
        const int64_t panels = (d + NR - 1) / NR;
        Elem *left = reinterpret_cast<Elem *>(memory);
        Acc *da = reinterpret_cast<Acc *>(memory + round_up((rows + MR) * steps * int64_t(sizeof(Elem)), 64));
        stage<In, Staged<P>, Acc>(g.views[g.cross ? 1 - v : v], g.first + from, rows, 0, d,
                                  reinterpret_cast<Staged<P> *>(left), steps * P::kPack);
        multiply_block(left, steps, weights[v], steps * NR, d, rows, panels, da);
        finish(v, da, panels * NR, from, rows, 0, d);
    }
};

// Splits `total` into parts of at most `most`, so that every thread has as many.
struct Parts {
    int64_t total, count;
    Parts(int64_t total, int64_t most, int64_t threads)
        : total(total), count(least(total, threads * ((total + threads * most - 1) / (threads * most)))) {}
    int64_t begin(int64_t part) const { return total * part / count; }
    int64_t longest() const { return (total + count - 1) / count; }
};

template <class P, class In> bool gradient_typed(const CorrelationGrad &g) {
    using Job = ColumnGradient<P, In>;
    using Elem = typename P::Elem;
    using Acc = typename P::Acc;
    constexpr int64_t NR = P::NR, MR = P::MR;
    const int64_t n = g.views[0].rows.count, d = g.views[0].d, panels = (d + NR - 1) / NR;
    const bool product = g.matrix[0] || g.matrix[1];
    const bool samples = product && g.samples;
    const int T = product ? threads_for_products(g.count * d * (g.samples ? n : d), g.threads)
                          : threads_for(g.count * d, g.threads);
    Job job{g, n, d, Job::padded_steps(g.samples ? n : d), {}};
    // The operands of a part should stay in the second-level cache.
    constexpr int64_t kCache = 512 << 10;
    const int64_t width = (job.steps * int64_t(sizeof(Elem)) + g.count * int64_t(sizeof(Acc))) * NR;
    const int64_t height = (job.steps * int64_t(sizeof(Elem)) + panels * NR * int64_t(sizeof(Acc)));
    const int64_t fit = samples ? kCache / width : kCache / height / MR * MR;
    const Parts parts(samples ? panels : g.count, product ? (fit < 1 ? 1 : least(fit, samples ? 4 : 64)) : 64, T);
    const int64_t weights = !product  ? 0
                            : samples ? round_up((g.count + MR) * job.steps * int64_t(sizeof(Elem)), 64)
                                      : round_up(panels * NR * job.steps * int64_t(sizeof(Elem)), 64);
    const int64_t part = parts.longest() + (samples ? 0 : MR);
    const int64_t each = product ? round_up(part * (samples ? width : height), 64) + 128 : 0;
    Memory memory(2 * (weights + 64) + T * (each + 64));
    if (!memory.data) return false;
    for (Elem *&w : job.weights) w = reinterpret_cast<Elem *>(memory.take(weights));
    char *scratch = memory.take(T * each);
    for (void *out : g.out)
        if (out) fresh(out, g.count * d * int64_t(g.widened ? sizeof(Acc) : sizeof(In)));
#pragma omp parallel num_threads(T)
    {
        const int t = omp_get_thread_num();
        [[maybe_unused]] typename P::Session session;
        for (int v = 0; product && v < 2; ++v) {
            if (!g.out[v]) continue;
            if (g.samples) {
#pragma omp for schedule(static)
                for (int64_t r = 0; r < g.count; ++r) job.take_rows(v, r);
            } else {
#pragma omp for schedule(static)
                for (int64_t p = 0; p < panels; ++p) job.take_panel(v, p);
            }
        }
#pragma omp for schedule(static)
        for (int64_t p = 0; p < parts.count; ++p)
            for (int v = 0; v < 2; ++v) {
                const int64_t begin = parts.begin(p), length = parts.begin(p + 1) - begin;
                if (!g.out[v]) continue;
                if (!product)
                    job.finish(v, nullptr, 0, begin, length, 0, d);
                else if (g.samples)
                    job.by_features(v, begin, length, scratch + t * each);
                else
                    job.by_rows(v, begin, length, scratch + t * each);
            }
    }
    return true;
}

} // namespace
