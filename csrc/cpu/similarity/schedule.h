// SPDX-License-Identifier: Apache-2.0
// Decides which blocks meet, on which thread and in which order.
//   x with itself   groups of blocks meet as in a round-robin tournament, so that no two threads ever write one row
//   x with y        groups meet along the diagonals of a Latin square
//   one side only   each thread keeps its owners
#pragma once
#include "blocks.h"
#include <omp.h>

namespace {

struct Blocks {
    int64_t rows, size;
    int64_t count() const { return (rows + size - 1) / size; }
    int64_t first(int64_t b) const { return b * size; }
    int64_t length(int64_t b) const { return least(size, rows - b * size); }
    int64_t begin_of(int64_t group, int64_t groups) const { return count() * group / groups; }
};

template <class W> void sweep(W &w, Blocks o, int64_t ob, int64_t oe, Blocks i, int64_t ib, int64_t ie, bool both) {
    if (ib == ie) return;
    for (int64_t b = ob; b < oe; ++b) {
        w.begin(o.first(b), o.length(b), both);
        for (int64_t c = ib; c < ie; ++c) w.meet(i.first(c), i.length(c), both);
        w.end();
    }
}
template <class W> void triangle(W &w, Blocks o, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
        w.begin(o.first(b), o.length(b), true);
        for (int64_t c = begin; c < b; ++c) w.meet(o.first(c), o.length(c), true);
        w.meet(o.first(b), o.length(b), false); // on the diagonal each row meets all others of its block
        w.end();
    }
}
enum class Meeting { kOneSide, kBothSides, kItself };

template <class W>
void run(const W &job, Meeting meeting, Blocks o, Blocks i, int threads, char *memory, int64_t each) {
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads();
        [[maybe_unused]] typename W::Session session;
        W w = job;
        w.use(memory + t * each, T);
        if (meeting == Meeting::kOneSide) {
            sweep(w, o, o.begin_of(t, T), o.begin_of(t + 1, T), i, 0, i.count(), false);
        } else if (meeting == Meeting::kBothSides) {
            for (int r = 0; r < T; ++r) {
                const int g = (t + r) % T;
                sweep(w, o, o.begin_of(t, T), o.begin_of(t + 1, T), i, i.begin_of(g, T), i.begin_of(g + 1, T), true);
#pragma omp barrier
            }
        } else if (T == 1) {
            triangle(w, o, 0, o.count());
        } else {
            const int G = 2 * T;
            triangle(w, o, o.begin_of(t, G), o.begin_of(t + 1, G));
            triangle(w, o, o.begin_of(G - 1 - t, G), o.begin_of(G - t, G));
            for (int r = 0; r < G - 1; ++r) { // the circle method: the last group stays, the others turn
#pragma omp barrier
                const int a = t == 0 ? r : (r + t) % (G - 1), b = t == 0 ? G - 1 : (r - t + G - 1) % (G - 1);
                sweep(w, o, o.begin_of(a, G), o.begin_of(a + 1, G), o, o.begin_of(b, G), o.begin_of(b + 1, G), true);
            }
        }
    }
}

struct Plan {
    Meeting meeting;
    int threads;
    int64_t owner_block, other_block; // rows
};

template <class P> Plan plan(Meeting meeting, int64_t owners, int64_t others, int64_t d, int threads) {
    // Rows that a thread should have at least. They fill tiles, and pay for its waiting for the others.
    const int64_t fewest = meeting == Meeting::kItself ? 96 : meeting == Meeting::kBothSides ? 32 : 48;
    if (owners * others * d < (1 << 20)) threads = 1;
    const int64_t rows = meeting == Meeting::kBothSides ? least(owners, others) : owners;
    const int64_t T = rows < fewest ? 1 : least(threads, rows / fewest);
    const int64_t most = d > 768 ? kBlock / 2 : kBlock; // the blocks of wide rows shrink, to stay in the L2 cache
    if (meeting != Meeting::kItself)
        return {meeting, int(T), block_of<P>(owners, T, most),
                block_of<P>(others, meeting == Meeting::kBothSides ? T : 1, most)};
    // One thread cuts few rows of a triangle into blocks too, because a block on the diagonal is computed whole.
    const int64_t groups = T > 1 ? 2 * T : 4, block = block_of<P>(rows, groups, most);
    // Sweeping the square is faster than a tournament that leaves threads idle or has groups without a block.
    if (threads > 1 && (T < threads || (rows + block - 1) / block < groups))
        return plan<P>(Meeting::kOneSide, owners, others, d, threads);
    return {meeting, int(T), block, block};
}

} // namespace
