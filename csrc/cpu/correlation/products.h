// SPDX-License-Identifier: Apache-2.0
// Computes the two small matrices: K = a a^T (N x N, over chunks of features) and C = a^T b (D x D, over chunks of
// rows). Where one result for each thread is small enough (K, kApart), every thread packs and multiplies chunks of its
// own, and the results are added at the end. Otherwise all threads pack a chunk, wait for each other, and share the
// tiles of one result. Chunks alternate between two buffers, so that one wait per chunk is enough; waits cost much on a
// machine whose cores are busy with other work. A symmetric matrix is computed below the diagonal and mirrored. The
// order of every sum depends on the number of threads alone.
#pragma once
#include "../dot.h"
#include "../packing.h"
#include "columns.h"

namespace {

template <int Pack, class Acc> struct StagedType {
    using type = bf16;
};
template <class Acc> struct StagedType<1, Acc> {
    using type = Acc;
};
template <class P> using Staged = typename StagedType<P::kPack, typename P::Acc>::type;

// The tiles of MR rows by NR columns, panel by panel. A triangle has only those that reach its lower half.
template <class P> struct TileGrid {
    int64_t rows, columns;
    bool triangle;

    int64_t strips() const { return (rows + P::MR - 1) / P::MR; }
    int64_t panels() const { return (columns + P::NR - 1) / P::NR; }
    int64_t top(int64_t panel) const { return triangle ? panel * P::NR / P::MR : 0; }
    // Calls f(row, panel) for the tiles of thread t of T.
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

constexpr int64_t kDepth = 128;      // elements of k; a panel and the left side of a tile fit the first-level cache
constexpr int64_t kApart = 16 << 20; // bytes; threads share one result where one for each would take more

// Below this many multiply-adds, waking a second thread costs more than it saves.
constexpr int64_t kAlone = 1 << 23;
inline int threads_for_products(int64_t operations, int threads) { return operations < kAlone ? 1 : threads; }

struct Split {
    int threads;
    bool apart;
    int64_t results, buffers;
    Split(int64_t operations, int64_t bytes, int64_t chunks, int wanted)
        : threads(threads_for_products(operations, wanted)), apart(threads > 1 && threads * bytes <= kApart) {
        if (apart) threads = int(least(threads, chunks));
        results = apart ? threads : 1;
        buffers = threads > 2 && apart ? threads : 2;
    }
    Split(int64_t operations, int64_t chunks, int wanted) // all threads share one result
        : threads(threads_for_products(operations, wanted)), apart(false), results(1), buffers(least(chunks, 2)) {}
};

// Packs and multiplies all chunks into `sums` (rows, ld); results of other threads follow it, `size` elements apart.
// job.pack(chunk, panel, buffer) fills a panel of a buffer, and job.tile(chunk, row, panel, buffer, at, ...) adds a
// tile's product to what stands at `at`.
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

// Copies the padded sum to the result. The upper half of a triangle is copied from its lower half.
template <class Acc>
void deliver(const Acc *sum, int64_t ld, int64_t rows, int64_t columns, bool triangle, Acc *out, int threads) {
    constexpr int64_t kBand = 32; // rows; a column is read down while the cache holds their lines
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
    Acc *rows, *lanes; // each buffer has (N, kDepth), and panels of (kDepth, NR)

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

// The job that computes C. Chunks are long, so that a tile stays in the first-level cache from one pass to the next.
// The rows of a tile come from `left`, in strips that are MR features wide. A strip is read end to end, where columns
// of a panel would use half of each cache line.
template <class P, class In> struct Cross {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int64_t NR = P::NR, MR = P::MR;
    // Rows that are read together, each a stream of memory. A group ends with a step.
    static constexpr int64_t kGroup = P::kPack * P::kAlign > 8 ? P::kPack * P::kAlign : 8;
    static constexpr int64_t kPass = 256;
    static constexpr bool kTurned = P::kOwnerRows || NR % MR != 0; // `left` has rows where strips do not suit P

    Columns a, b;
    bool itself;
    int64_t depth, steps, panels, side; // depth: rows of a chunk; steps: of those rows
    Elem *left, *right;                 // each buffer has strips of (steps, MR), and panels of (steps, NR)

    int64_t groups() const { return depth / kGroup; }
    int64_t rows(int64_t chunk) const { return least(depth, a.rows.count - chunk * depth); }
    void pack(int64_t chunk, int64_t group, int64_t buffer) const {
        const bool second = group >= groups();
        const int64_t from = group % groups() * kGroup, count = least(kGroup, rows(chunk) - from);
        for (int64_t p = 0; count > 0 && p < panels; ++p) {
            Elem panel[kGroup * NR];
            const int64_t length = pack_panel(second ? b : a, chunk * depth + from, count, p * NR, panel);
            const int64_t at = buffer * side + from / P::kPack * NR + p * steps * NR;
            if (second || itself) memcpy(right + at, panel, length * NR * sizeof(Elem));
            if (!second) keep_left(panel, length, p * NR, left + buffer * side, from / P::kPack);
        }
    }
    int64_t pack_panel(const Columns &view, int64_t first, int64_t count, int64_t f, Elem *panel) const {
        const int64_t width = least(NR, view.d - f);
        if constexpr (P::kPack == 1) {
            stage<In, Elem, Acc>(view, first, count, f, width, panel, NR);
        } else {
            Staged<P> staged[kGroup * NR];
            stage<In, Staged<P>, Acc>(view, first, count, f, width, staged, NR);
            pack_features<P, Staged<P>>({staged, NR, count}, 0, count, width, panel);
        }
        return steps_for<P>(count);
    }
    void keep_left(const Elem *panel, int64_t length, int64_t f, Elem *out, int64_t at) const {
        for (int64_t k = 0; k < length; ++k)
            if constexpr (kTurned)
                for (int64_t j = 0; j < NR; ++j) out[(f + j) * steps + at + k] = panel[k * NR + j];
            else
                for (int64_t j = 0; j < NR; j += MR)
                    memcpy(out + (f + j) * steps + (at + k) * MR, panel + k * NR + j, MR * sizeof(Elem));
    }
    void tile(int64_t chunk, int64_t row, int64_t panel, int64_t buffer, Acc *at, int64_t ld, int height,
              int vectors) const {
        constexpr int64_t ak = kTurned ? 1 : MR;
        const int64_t all = steps_for<P>(rows(chunk));
        const Elem *from = left + buffer * side + row * steps, *with = right + buffer * side + panel * steps * NR;
        for (int64_t k = 0; k < all; k += kPass)
            grad_tile<P>(from + k * ak, kTurned ? steps : 1, ak, with + k * NR, least(kPass, all - k), at, ld, height,
                         vectors);
    }
};

template <class P, class In>
bool features_typed(const Columns &a, const Columns &b, bool itself, void *out, int threads) {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    using Job = Cross<P, In>;
    constexpr int64_t kPacked = 16 << 20; // bytes of both sides of a chunk, packed
    constexpr int64_t kDeepest = 2048;    // rows; a panel of them and a strip fit a second-level cache of 1 MiB
    const int64_t n = a.rows.count, d = a.d, ld = round_up(d, kLanes<Acc>), panels = (d + P::NR - 1) / P::NR;
    const int64_t row = 2 * panels * P::NR * int64_t(sizeof(Elem)) / P::kPack;
    const int64_t most = kPacked / row < kDepth ? kDepth : least(kPacked / row, kDeepest);
    const int64_t chunks = n > most ? (n + most - 1) / most : 1; // also one where there are no rows, so that C is zero
    const int64_t depth = round_up((n + chunks - 1) / chunks, Job::kGroup);
    const TileGrid<P> grid{d, d, itself};
    const Split split(n * d * d, chunks, threads);
    const int64_t steps = steps_for<P>(depth);
    const int64_t side = (panels * P::NR + P::MR) * steps, packed = split.buffers * side * int64_t(sizeof(Elem));
    const bool direct = ld == d;
    Memory memory(2 * (packed + 64) + (direct ? 0 : d * ld * int64_t(sizeof(Acc)) + 64));
    if (!memory.data) return false;
    Job job{a, b, itself, depth, steps, panels, side, {}, {}};
    job.left = reinterpret_cast<Elem *>(memory.take(packed));
    job.right = reinterpret_cast<Elem *>(memory.take(packed));
    Acc *result = static_cast<Acc *>(out);
    Acc *sums = direct ? result : reinterpret_cast<Acc *>(memory.take(d * ld * int64_t(sizeof(Acc))));
    accumulate(job, grid, split, (itself ? 1 : 2) * job.groups(), chunks, sums, ld, d * ld);
    if (!direct || itself) deliver(sums, ld, d, d, itself, result, split.threads);
    return true;
}

// Sums x * y in fp64: over each row and each column without the diagonal, or over everything. The square of a
// covariance may be beyond fp32 where the mean of all of them is not.
template <class Acc>
bool energies_typed(const Acc *x, const Acc *y, int64_t n, int64_t m, double *rows, double *columns, double *total,
                    int threads) {
    if (rows) {
        const int T = threads_for(n * m, threads);
        Memory memory(columns ? T * m * int64_t(sizeof(double)) : 0);
        if (!memory.data) return false;
        double *sums = reinterpret_cast<double *>(memory.take(columns ? T * m * int64_t(sizeof(double)) : 0));
        int used = 1;
#pragma omp parallel num_threads(T)
        {
            const int t = omp_get_thread_num(), used_here = omp_get_num_threads();
            if (t == 0) used = used_here;
            double *mine = sums + t * m;
            for (int64_t k = 0; columns && k < m; ++k) mine[k] = 0;
            for (int64_t i = n * t / used_here; i < n * (t + 1) / used_here; ++i) {
                const Acc *a = x + i * m, *b = y + i * m;
                rows[i] =
                    dot<double>(a, b, least(i, m)) + (i + 1 < m ? dot<double>(a + i + 1, b + i + 1, m - i - 1) : 0.0);
                if (!columns) continue;
                const double here = i < m ? mine[i] : 0;
                for (int64_t k = 0; k < m; ++k) mine[k] += double(a[k]) * double(b[k]);
                if (i < m) mine[i] = here;
            }
        }
        for (int64_t k = 0; columns && k < m; ++k) {
            columns[k] = 0;
            for (int t = 0; t < used; ++t) columns[k] += sums[t * m + k];
        }
    }
    if (total) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += dot<double>(x + i * m, y + i * m, m);
        *total = sum;
    }
    return true;
}

} // namespace
