// SPDX-License-Identifier: Apache-2.0
// The two small matrices: K = a a^T (N x N, over chunks of features) and C = a^T b (D x D, over chunks of rows).
// Where a result for each thread is small (kApart), every thread takes chunks of its own, packed where it uses them,
// and the results are added in the end. Else all threads pack a chunk, wait for each other, and share out the tiles of
// the one result; chunks alternate between two buffers, so that one wait per chunk is enough. Waiting is what costs on
// a machine whose cores are busy with something else. A matrix that is symmetric by construction is computed below the
// diagonal and mirrored. The order of every sum depends on the number of threads alone.
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

// Steps of a chunk: a panel of them and the left side of a tile fit the first-level cache.
constexpr int64_t kDepth = 128;
constexpr int64_t kApart = 16 << 20; // bytes of results beyond which threads share one

struct Split {
    int threads;
    bool apart;
    int64_t results, buffers;
    Split(int64_t operations, int64_t bytes, int64_t chunks, int wanted)
        : threads(operations < (1 << 20) ? 1 : wanted), apart(threads > 1 && threads * bytes <= kApart) {
        if (apart) threads = int(least(threads, chunks));
        results = apart ? threads : 1;
        buffers = threads > 2 && apart ? threads : 2;
    }
};

// Packs and multiplies `chunks` chunks into sums[0] (rows, ld), `size` elements from one result to the next.
// job.pack(chunk, panel, buffer) fills a panel of a buffer; job.tile(chunk, row, panel, buffer, at, ...) adds a tile's
// product there.
template <class P, class Job>
void accumulate(Job &job, const TileGrid<P> &grid, const Split &split, int64_t packed, int64_t chunks,
                typename P::Acc *sums, int64_t ld, int64_t size) {
    using Acc = typename P::Acc;
#pragma omp parallel num_threads(split.threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads();
        [[maybe_unused]] typename P::Session session;
        const bool apart = split.apart && T == split.threads;
        const int64_t part = apart ? 0 : t, parts = apart ? 1 : T;
        const int64_t begin = apart ? chunks * t / T : 0, end = apart ? chunks * (t + 1) / T : chunks;
        Acc *sum = sums + (apart ? t * size : 0);
        for (int64_t r = grid.rows * part / parts; r < grid.rows * (part + 1) / parts; ++r)
            memset(sum + r * ld, 0, ld * sizeof(Acc));
        for (int64_t c = begin; c < end; ++c) {
            const int64_t buffer = apart ? t : c & 1;
            for (int64_t p = packed * part / parts; p < packed * (part + 1) / parts; ++p) job.pack(c, p, buffer);
            if (!apart) {
#pragma omp barrier
            }
            grid.share(part, parts, [&](int64_t row, int64_t panel) {
                const int64_t columns = least(P::NR, grid.columns - panel * P::NR), lanes = kLanes<Acc>;
                job.tile(c, row, panel, buffer, sum + row * ld + panel * P::NR, ld, int(least(P::MR, grid.rows - row)),
                         int((columns + lanes - 1) / lanes));
            });
        }
#pragma omp barrier
        if (apart) {
#pragma omp for schedule(static)
            for (int64_t r = 0; r < grid.rows; ++r)
                for (int k = 1; k < T; ++k)
                    for (int64_t i = r * ld; i < r * ld + ld; ++i) sums[i] += sums[k * size + i];
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

template <class Acc, class In> struct Gram {
    using P = Wide<Acc>;
    static constexpr int64_t NR = P::NR;

    Columns a;
    int64_t first, side;
    Acc *rows, *lanes; // of each buffer: (N, kDepth), and panels of (kDepth, NR)

    int64_t width(int64_t chunk) const { return least(kDepth, a.d - chunk * kDepth); }
    void pack(int64_t chunk, int64_t panel, int64_t buffer) const {
        const int64_t at = panel * NR, count = least(NR, a.rows.count - at);
        Acc *staged = rows + buffer * side + at * kDepth;
        stage<In, Acc, Acc>(a, at, count, chunk * kDepth, width(chunk), staged, kDepth);
        pack_lanes<P, Acc>({staged, kDepth, count}, 0, count, width(chunk), lanes + buffer * side + at * kDepth);
    }
    void tile(int64_t chunk, int64_t row, int64_t panel, int64_t buffer, Acc *at, int64_t ld, int height,
              int vectors) const {
        grad_tile<P>(rows + buffer * side + (first + row) * kDepth, kDepth, 1,
                     lanes + buffer * side + panel * NR * kDepth, steps_for<P>(width(chunk)), at, ld, height, vectors);
    }
};

template <class Acc, class In>
bool samples_typed(const Columns &a, int64_t first, int64_t count, void *out, int threads) {
    using Job = Gram<Acc, In>;
    using P = typename Job::P;
    const int64_t n = a.rows.count, ld = round_up(n, kLanes<Acc>), chunks = (a.d + kDepth - 1) / kDepth;
    const TileGrid<P> grid{count, n, count == n};
    const int64_t size = int64_t(sizeof(Acc)), whole = count * ld;
    const Split split(count * n * a.d, whole * size, chunks, threads);
    const int64_t side = round_up((round_up(n, P::NR) + P::MR) * kDepth, 16), packed = split.buffers * side;
    const bool direct = ld == n && split.results == 1;
    Memory memory(2 * (packed * size + 64) + (direct ? 0 : split.results * whole * size + 64));
    if (!memory.data) return false;
    const auto room = [&](int64_t count) { return reinterpret_cast<Acc *>(memory.take(count * size)); };
    Job job{a, first, side, room(packed), room(packed)};
    Acc *result = static_cast<Acc *>(out), *sums = direct ? result : room(split.results * whole);
    accumulate(job, grid, split, (n + P::NR - 1) / P::NR, chunks, sums, ld, whole);
    if (!direct || grid.triangle) deliver(sums, ld, count, n, grid.triangle, result, split.threads);
    return true;
}

template <class P, class In> struct Cross {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int64_t NR = P::NR, kRows = kDepth, kSteps = kRows / P::kPack;
    // The left side of a tile comes down the columns of a panel, unless it wants rows or would run over the panel's
    // end.
    static constexpr bool kTurned = P::kOwnerRows || P::NR % P::MR != 0;

    Columns a, b;
    bool itself;
    int64_t panels, side;
    Elem *left, *right, *turned; // of each buffer: panels of (kSteps, NR); turned: (D, kSteps)

    int64_t rows(int64_t chunk) const { return least(kRows, a.rows.count - chunk * kRows); }
    void pack_side(const Columns &columns, int64_t chunk, int64_t panel, Elem *out) const {
        const int64_t f = panel * NR, width = least(NR, a.d - f);
        Staged<P> staged[kBlock * NR];
        stage<In, Staged<P>, Acc>(columns, chunk * kRows, rows(chunk), f, width, staged, NR);
        pack_features<P, Staged<P>>({staged, NR, rows(chunk)}, 0, rows(chunk), width, out);
    }
    void pack(int64_t chunk, int64_t panel, int64_t buffer) const {
        const int64_t at = buffer * side + panel % panels * kSteps * NR;
        if (panel >= panels) return pack_side(b, chunk, panel % panels, right + at);
        pack_side(a, chunk, panel, left + at);
        for (int64_t k = 0; kTurned && k < steps_for<P>(rows(chunk)); ++k)
            for (int64_t f = 0; f < NR; ++f) turned[at + f * kSteps + k] = left[at + k * NR + f];
    }
    void tile(int64_t chunk, int64_t row, int64_t panel, int64_t buffer, Acc *at, int64_t ld, int height,
              int vectors) const {
        const int64_t first = buffer * side;
        const Elem *from = kTurned ? turned + first + row * kSteps : left + first + row / NR * kSteps * NR + row % NR;
        grad_tile<P>(from, kTurned ? kSteps : 1, kTurned ? 1 : NR,
                     (itself ? left : right) + first + panel * kSteps * NR, steps_for<P>(rows(chunk)), at, ld, height,
                     vectors);
    }
};

template <class P, class In>
bool features_typed(const Columns &a, const Columns &b, bool itself, void *out, int threads) {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Job = Cross<P, In>;
    const int64_t n = a.rows.count, d = a.d, ld = round_up(d, kLanes<Acc>), panels = (d + P::NR - 1) / P::NR;
    const int64_t chunks = (n + Job::kRows - 1) / Job::kRows;
    const TileGrid<P> grid{d, d, itself};
    const Split split(n * d * d, d * ld * int64_t(sizeof(Acc)), chunks, threads);
    const int64_t side = (panels * P::NR + P::MR) * Job::kSteps, packed = split.buffers * side * int64_t(sizeof(Elem));
    const bool direct = ld == d && split.results == 1;
    Memory memory(3 * (packed + 64) + (direct ? 0 : split.results * d * ld * int64_t(sizeof(Acc)) + 64));
    if (!memory.data) return false;
    Job job{a, b, itself, panels, side, {}, {}, {}};
    job.left = reinterpret_cast<Elem *>(memory.take(packed));
    job.right = itself ? nullptr : reinterpret_cast<Elem *>(memory.take(packed));
    job.turned = Job::kTurned ? reinterpret_cast<Elem *>(memory.take(packed)) : nullptr;
    Acc *result = static_cast<Acc *>(out);
    Acc *sums = direct ? result : reinterpret_cast<Acc *>(memory.take(split.results * d * ld * int64_t(sizeof(Acc))));
    accumulate(job, grid, split, itself ? panels : 2 * panels, chunks, sums, ld, d * ld);
    if (!direct || itself) deliver(sums, ld, d, d, itself, result, split.threads);
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
