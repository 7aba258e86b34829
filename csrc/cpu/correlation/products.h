// SPDX-License-Identifier: Apache-2.0
// The two small matrices: K = a a^T (N x N, over chunks of features) and C = a^T b (D x D, over chunks of rows).
// All threads pack a chunk, wait for each other, and share out the tiles of the result, to which the chunk adds: no
// copies per thread, and the order of every sum is the same for any number of threads. Chunks alternate between two
// buffers, so that one wait per chunk is enough. A matrix that is symmetric by construction is computed below the
// diagonal and mirrored.
#pragma once
#include "columns.h"

namespace {

template <int Pack, class Acc> struct StagedType {
    using type = bf16;
};
template <class Acc> struct StagedType<1, Acc> {
    using type = Acc;
};
template <class P> using Staged = typename StagedType<P::kPack, typename P::Acc>::type;

// Tiles of MR rows by NR columns, panel by panel; of a triangle only those that reach its lower half.
template <class P> struct TileGrid {
    int64_t rows, columns;
    bool triangle;

    int64_t strips() const { return (rows + P::MR - 1) / P::MR; }
    int64_t panels() const { return (columns + P::NR - 1) / P::NR; }
    int64_t top(int64_t panel) const { return triangle ? panel * P::NR / P::MR : 0; }
    // f(row, panel) for the tiles of thread t of T
    template <class F> void share(int64_t t, int64_t T, F f) const {
        int64_t total = 0;
        for (int64_t p = 0; p < panels(); ++p) total += strips() - top(p);
        int64_t begin = total * t / T, left = total * (t + 1) / T - begin;
        for (int64_t p = 0; p < panels() && left > 0; ++p) {
            const int64_t here = strips() - top(p);
            if (begin >= here) {
                begin -= here;
                continue;
            }
            for (int64_t s = top(p) + begin; s < strips() && left > 0; ++s, --left) f(s * P::MR, p);
            begin = 0;
        }
    }
};

// Packs and multiplies `chunks` chunks into `sum` (rows, ld). job.pack(chunk, panel, buffer) fills a panel of one of
// two buffers; job.tile(chunk, row, panel, buffer, at) adds a tile's product there.
template <class P, class Job>
void accumulate(Job &job, const TileGrid<P> &grid, int64_t packed, int64_t chunks, typename P::Acc *sum, int64_t ld,
                int threads) {
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads();
        [[maybe_unused]] typename P::Session session;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < grid.rows; ++r) memset(sum + r * ld, 0, ld * sizeof *sum);
        for (int64_t c = 0; c < chunks; ++c) {
            for (int64_t p = packed * t / T; p < packed * (t + 1) / T; ++p) job.pack(c, p, c & 1);
#pragma omp barrier
            grid.share(t, T, [&](int64_t row, int64_t panel) {
                const int64_t columns = least(P::NR, grid.columns - panel * P::NR), lanes = kLanes<typename P::Acc>;
                job.tile(c, row, panel, c & 1, sum + row * ld + panel * P::NR, ld, int(least(P::MR, grid.rows - row)),
                         int((columns + lanes - 1) / lanes));
            });
        }
    }
}

// From the padded sum to the result, the upper half from the lower where there is a triangle.
template <class Acc>
void deliver(const Acc *sum, int64_t ld, int64_t rows, int64_t columns, bool triangle, Acc *out, int threads) {
    constexpr int64_t kBand = 32; // rows read down a column while their lines are near
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t band = 0; band < rows; band += kBand) {
        const int64_t end = least(band + kBand, rows);
        for (int64_t r = band; r < end; ++r)
            if (sum != out) memcpy(out + r * columns, sum + r * ld, (triangle ? r + 1 : columns) * sizeof(Acc));
        for (int64_t c = band; triangle && c < columns; ++c)
            for (int64_t r = band; r < least(end, c); ++r) out[r * columns + c] = sum[c * ld + r];
    }
}

template <class P, class In> struct Gram {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int64_t kSteps = 192, kFeatures = kSteps * P::kPack, NR = P::NR;

    Columns a;
    int64_t d, first;
    Elem *rows[2], *lanes[2]; // (N, kSteps), and panels of (steps, NR)

    int64_t width(int64_t chunk) const { return least(kFeatures, d - chunk * kFeatures); }
    void pack(int64_t chunk, int64_t panel, int buffer) const {
        const int64_t at = panel * NR, count = least(NR, a.rows.count - at);
        Staged<P> *staged = reinterpret_cast<Staged<P> *>(rows[buffer] + at * kSteps);
        stage<In, Staged<P>, Acc>(a, at, count, chunk * kFeatures, width(chunk), staged, kFeatures);
        pack_lanes<P, Staged<P>>({staged, kFeatures, count}, 0, count, width(chunk), lanes[buffer] + at * kSteps);
    }
    void tile(int64_t chunk, int64_t row, int64_t panel, int buffer, Acc *at, int64_t ld, int height,
              int vectors) const {
        grad_tile<P>(rows[buffer] + (first + row) * kSteps, kSteps, 1, lanes[buffer] + panel * NR * kSteps,
                     steps_for<P>(width(chunk)), at, ld, height, vectors);
    }
};

template <class P, class In>
bool samples_typed(const Columns &a, int64_t d, int64_t first, int64_t count, void *out, int threads) {
    using Acc = typename P::Acc;
    using Job = Gram<P, In>;
    const int64_t n = a.rows.count, ld = round_up(n, kLanes<Acc>), padded = round_up(n, P::NR) + P::MR;
    const TileGrid<P> grid{count, n, count == n};
    const int64_t side = padded * Job::kSteps * int64_t(sizeof(typename P::Elem));
    const bool direct = ld == n;
    Memory memory(4 * (side + 64) + (direct ? 0 : count * ld * int64_t(sizeof(Acc)) + 64));
    if (!memory.data) return false;
    Job job{a, d, first, {}, {}};
    for (int b = 0; b < 2; ++b) {
        job.rows[b] = reinterpret_cast<typename P::Elem *>(memory.take(side));
        job.lanes[b] = reinterpret_cast<typename P::Elem *>(memory.take(side));
    }
    Acc *result = static_cast<Acc *>(out);
    Acc *sum = direct ? result : reinterpret_cast<Acc *>(memory.take(count * ld * int64_t(sizeof(Acc))));
    const int T = count * n * d < (1 << 20) ? 1 : threads;
    accumulate(job, grid, (n + P::NR - 1) / P::NR, (d + Job::kFeatures - 1) / Job::kFeatures, sum, ld, T);
    if (!direct || grid.triangle) deliver(sum, ld, count, n, grid.triangle, result, T);
    return true;
}

template <class P, class In> struct Cross {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int64_t NR = P::NR, kSteps = kBlock / P::kPack;
    // The left side of a tile comes down the columns of a panel, unless it wants rows or would run over the panel's
    // end.
    static constexpr bool kTurned = P::kOwnerRows || P::NR % P::MR != 0;

    Columns a, b;
    bool itself;
    int64_t d, panels;
    Elem *left[2], *right[2], *turned[2]; // panels of (kSteps, NR); turned: (D, kSteps)

    int64_t rows(int64_t chunk) const { return least(kBlock, a.rows.count - chunk * kBlock); }
    void pack_side(const Columns &columns, int64_t chunk, int64_t panel, Elem *out) const {
        const int64_t f = panel * NR, width = least(NR, d - f);
        Staged<P> staged[kBlock * NR];
        stage<In, Staged<P>, Acc>(columns, chunk * kBlock, rows(chunk), f, width, staged, NR);
        pack_features<P, Staged<P>>({staged, NR, rows(chunk)}, 0, rows(chunk), width, out);
    }
    void pack(int64_t chunk, int64_t panel, int buffer) const {
        const int64_t side = panel % panels * kSteps * NR;
        if (panel < panels) {
            pack_side(a, chunk, panel, left[buffer] + side);
            if (kTurned)
                for (int64_t k = 0; k < steps_for<P>(rows(chunk)); ++k)
                    for (int64_t f = 0; f < NR; ++f)
                        turned[buffer][(panel * NR + f) * kSteps + k] = left[buffer][side + k * NR + f];
        } else {
            pack_side(b, chunk, panel % panels, right[buffer] + side);
        }
    }
    void tile(int64_t chunk, int64_t row, int64_t panel, int buffer, Acc *at, int64_t ld, int height,
              int vectors) const {
        const Elem *from = kTurned ? turned[buffer] + row * kSteps : left[buffer] + row / NR * kSteps * NR + row % NR;
        grad_tile<P>(from, kTurned ? kSteps : 1, kTurned ? 1 : NR,
                     (itself ? left : right)[buffer] + panel * kSteps * NR, steps_for<P>(rows(chunk)), at, ld, height,
                     vectors);
    }
};

template <class P, class In>
bool features_typed(const Columns &a, const Columns &b, bool itself, int64_t d, void *out, int threads) {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Job = Cross<P, In>;
    const int64_t n = a.rows.count, ld = round_up(d, kLanes<Acc>), panels = (d + P::NR - 1) / P::NR;
    const TileGrid<P> grid{d, d, itself};
    const int64_t side = (panels * P::NR + P::MR) * Job::kSteps * int64_t(sizeof(Elem));
    const bool direct = ld == d;
    Memory memory(6 * (side + 64) + (direct ? 0 : d * ld * int64_t(sizeof(Acc)) + 64));
    if (!memory.data) return false;
    Job job{a, b, itself, d, panels, {}, {}, {}};
    for (int i = 0; i < 2; ++i) {
        job.left[i] = reinterpret_cast<Elem *>(memory.take(side));
        job.right[i] = reinterpret_cast<Elem *>(memory.take(side));
        job.turned[i] = reinterpret_cast<Elem *>(memory.take(side));
    }
    Acc *result = static_cast<Acc *>(out);
    Acc *sum = direct ? result : reinterpret_cast<Acc *>(memory.take(d * ld * int64_t(sizeof(Acc))));
    const int T = n * d * d < (1 << 20) ? 1 : threads;
    accumulate(job, grid, itself ? panels : 2 * panels, (n + kBlock - 1) / kBlock, sum, ld, T);
    if (!direct || itself) deliver(sum, ld, d, d, itself, result, T);
    return true;
}

// Sums of x * y: of each row and column but for the diagonal, or the total of everything.
template <class Acc>
bool energies_typed(const Acc *x, const Acc *y, int64_t n, int64_t m, Acc *rows, Acc *columns, double *total,
                    int threads) {
    if (columns) {
        Memory memory(threads * m * int64_t(sizeof(double)));
        if (!memory.data) return false;
        double *sums = reinterpret_cast<double *>(memory.take(threads * m * int64_t(sizeof(double))));
        int used = 1;
#pragma omp parallel num_threads(threads_for(n *m, threads))
        {
            const int t = omp_get_thread_num(), T = omp_get_num_threads();
            if (t == 0) used = T;
            double *mine = sums + t * m;
            for (int64_t k = 0; k < m; ++k) mine[k] = 0;
            for (int64_t i = n * t / T; i < n * (t + 1) / T; ++i)
                for (int64_t k = 0; k < m; ++k) mine[k] += k == i ? 0.0 : double(x[i * m + k] * y[i * m + k]);
        }
        for (int64_t k = 0; k < m; ++k) {
            double sum = 0;
            for (int t = 0; t < used; ++t) sum += sums[t * m + k];
            columns[k] = Acc(sum);
        }
    }
    if (rows) {
#pragma omp parallel for schedule(static) num_threads(threads_for(n *m, threads))
        for (int64_t i = 0; i < n; ++i)
            rows[i] = dot<Acc>(x + i * m, y + i * m, i < m ? i : m) +
                      (i + 1 < m ? dot<Acc>(x + i * m + i + 1, y + i * m + i + 1, m - i - 1) : Acc(0));
    }
    if (total) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += dot<double>(x + i * m, y + i * m, m);
        *total = sum;
    }
    return true;
}

} // namespace
