// SPDX-License-Identifier: Apache-2.0
// Finds the k best rows of y for each row of x, in one problem of a batch.
//
// The others (y) are packed a part at a time, once for all owners (x), by all threads together. Then each thread takes
// a block of owners to every block of that part, a panel of lanes at a time. Where there are fewer blocks of owners
// than threads, threads share the owners and divide the others, and what each found is merged.
#pragma once
#include "../memory.h"
#include "../packing.h"
#include "best.h"
#include "prepare.h"
#include <omp.h>

namespace {

constexpr int64_t kPartBytes = 8 << 20; // of packed others, which owners read from a shared cache

template <class P, class In> struct Finder {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int MR = P::MR, NR = P::NR;

    const Search &s;
    Rows x, y;
    const Acc *bias;
    const int64_t *exclude;
    Acc *values; // (divisions, x.count, k); the first division is the output
    int64_t *indices;

    int64_t owner_block, other_block, owner_blocks, other_blocks, steps, side;
    int64_t part;      // blocks of others that are packed at a time
    int64_t divisions; // of a part
    Elem *packed;
    Acc *packed_bias; // (part, kBlock); null where there is none
    Acc *centre;
    Acc *more_values; // of the divisions after the first
    int64_t *more_indices;

    static int64_t blocks_of(int64_t rows, int64_t size) { return (rows + size - 1) / size; }
    // Cuts rows into blocks of one length, so that no thread waits for a longer one.
    static int64_t even(int64_t rows, int64_t most, int64_t unit) {
        return round_up(blocks_of(rows, blocks_of(rows, most)), unit);
    }
    Acc *values_of(int64_t division) { return division ? more_values + (division - 1) * x.count * s.k : values; }
    int64_t *indices_of(int64_t division) { return division ? more_indices + (division - 1) * x.count * s.k : indices; }

    bool run(int threads) {
        const bool euclidean = s.metric == sslkernels::kEuclidean, biased = bias || euclidean;
        if (x.count * y.count * s.d < (1 << 18)) threads = 1;
        const int64_t most = s.d > 768 ? kBlock / 2 : kBlock; // blocks of wide rows shrink, to stay in the L2 cache
        other_block = even(y.count, least(most, round_up(blocks_of(y.count, threads), MR)), MR);
        other_blocks = blocks_of(y.count, other_block);
        const int64_t fewest = blocks_of(x.count, NR); // panels of owners
        divisions = fewest < threads ? least(threads, other_blocks) : 1;
        const int64_t sharing = divisions > 1 ? 1 : threads; // threads that divide the owners
        int64_t count = blocks_of(x.count, most);
        if (count < 4 * sharing) count = round_up(count, sharing); // or one thread has a block more than another
        owner_block = round_up(blocks_of(x.count, count), kLanes<Acc>);
        owner_blocks = blocks_of(x.count, owner_block);
        steps = steps_for<P>(s.d), side = kBlock * round_up(s.d, NR);
        const int64_t fit = kPartBytes / (side * int64_t(sizeof(Elem)));
        part = least(other_blocks, fit > threads ? fit : threads);

        const int64_t each = round_up(side * int64_t(sizeof(Elem)), 64) + round_up(Prepared<P, In>::bytes(s.d), 64);
        const int64_t more = (divisions - 1) * x.count * s.k;
        Memory memory(each * threads + part * (side * int64_t(sizeof(Elem)) + kBlock * int64_t(sizeof(Acc))) +
                      2 * s.d * int64_t(sizeof(Acc)) + more * int64_t(sizeof(Acc) + 8) + 8 * 64);
        if (!memory.data) return false;
        char *scratch = memory.take(each * threads);
        packed = reinterpret_cast<Elem *>(memory.take(part * side * sizeof(Elem)));
        packed_bias = reinterpret_cast<Acc *>(memory.take(part * kBlock * sizeof(Acc)));
        centre = reinterpret_cast<Acc *>(memory.take(2 * s.d * sizeof(Acc)));
        more_values = reinterpret_cast<Acc *>(memory.take(more * sizeof(Acc)));
        more_indices = reinterpret_cast<int64_t *>(memory.take(more * 8));
        if (!biased) packed_bias = nullptr;
        if (euclidean && Prepared<P, In>::kCentres) find_centre(y, s.d, centre, centre + s.d);

#pragma omp parallel num_threads(threads)
        {
            [[maybe_unused]] typename P::Session session;
            char *mine = scratch + omp_get_thread_num() * each;
            Elem *lanes = reinterpret_cast<Elem *>(mine);
            Prepared<P, In> prepared{s.metric, s.d, centre, nullptr, nullptr};
            prepared.use(mine + round_up(side * int64_t(sizeof(Elem)), 64));
            for (int64_t begin = 0; begin < other_blocks; begin += part) {
                const int64_t end = least(begin + part, other_blocks);
#pragma omp for schedule(static)
                for (int64_t b = begin; b < end; ++b) pack(prepared, b, b - begin);
#pragma omp for schedule(dynamic)
                for (int64_t item = 0; item < owner_blocks * divisions; ++item) {
                    const int64_t division = item % divisions, count = end - begin;
                    visit(prepared, lanes, item / divisions, division, begin, begin + division * count / divisions,
                          begin + (division + 1) * count / divisions);
                }
            }
#pragma omp for schedule(static)
            for (int64_t i = 0; i < x.count; ++i) finish(i);
        }
        return true;
    }

    void pack(const Prepared<P, In> &prepared, int64_t block, int64_t place) {
        const int64_t first = block * other_block, count = least(other_block, y.count - first);
        const Rows rows = prepared.rows(y, first, count);
        pack_others<P, In>(rows, 0, count, s.d, packed + place * side);
        if (!packed_bias) return;
        Acc *to = packed_bias + place * kBlock;
        for (int64_t i = 0; i < count; ++i) {
            const In *r = row<In>(rows, i);
            to[i] = bias ? bias[first + i] : dot<Acc>(r, r, s.d) * Acc(-0.5);
        }
    }

    // Takes a block of owners to the packed blocks begin to end; `packed_from` is the first that is packed.
    void visit(const Prepared<P, In> &prepared, Elem *lanes, int64_t owner, int64_t division, int64_t packed_from,
               int64_t begin, int64_t end) {
        const int64_t o0 = owner * owner_block, co = least(owner_block, x.count - o0);
        Best<P> best{values_of(division), indices_of(division), s.k, {}};
        if (packed_from == 0) best.clear(o0, co);
        if (begin == end) return;
        best.begin(o0, co);
        pack_lanes<P, In>(prepared.rows(x, o0, co), 0, co, s.d, lanes);
        for (int64_t b = begin; b < end; ++b) meet(best, lanes, o0, co, b, b - packed_from);
        best.end(co);
    }

    void meet(Best<P> &best, const Elem *lanes, int64_t o0, int64_t co, int64_t block, int64_t place) {
        const int64_t i0 = block * other_block, ci = least(other_block, y.count - i0);
        const Elem *others = packed + place * side;
        const Acc *biases = packed_bias ? packed_bias + place * kBlock : nullptr;
        bool dirty[kBlock / MR][kBlock / NR] = {}; // tiles that hold a pair that is left out
        bool any = false;
        each_left_out(o0, co, i0, ci, [&](int64_t n, int64_t m) { any = dirty[m / MR][n / NR] = true; });
        for (int64_t n0 = 0; n0 < co; n0 += NR) {
            const int64_t lanes_here = least(NR, co - n0);
            const int vectors = int((lanes_here + kLanes<Acc> - 1) / kLanes<Acc>);
            for (int64_t m0 = 0; m0 < ci; m0 += MR) {
                Acc t[MR * NR];
                dot_tile<P>(others + m0 * NR, kBlock * NR, lanes + n0 * steps, steps, t, vectors);
                if (any && dirty[m0 / MR][n0 / NR])
                    each_left_out(o0 + n0, lanes_here, i0 + m0, least(MR, ci - m0),
                                  [&](int64_t n, int64_t m) { t[m * NR + n] = -Acc(INFINITY); });
                best.take(t, biases ? biases + m0 : nullptr, int(least(MR, ci - m0)), i0 + m0, n0);
            }
        }
    }

    // Calls f(n, m) for each pair of owner first + n and other start + m that is left out.
    template <class F> void each_left_out(int64_t first, int64_t owners, int64_t start, int64_t others, F f) const {
        if (s.itself)
            for (int64_t n = 0; n < owners; ++n)
                if (uint64_t(first + n - start) < uint64_t(others)) f(n, first + n - start);
        if (!exclude) return;
        const int64_t *entry = exclude + first * s.excluded;
        for (int64_t n = 0; n < owners; ++n)
            for (int64_t e = 0; e < s.excluded; ++e, ++entry)
                if (uint64_t(*entry - start) < uint64_t(others)) f(n, *entry - start);
    }

    // Merges what the divisions found for a row, and sorts it.
    void finish(int64_t i) {
        const int64_t k = s.k;
        Acc *found = values + i * k;
        int64_t *where = indices + i * k;
        for (int64_t division = 1; division < divisions; ++division)
            for (int64_t j = i * k; j < (i + 1) * k; ++j) {
                const Acc value = values_of(division)[j];
                const int64_t index = indices_of(division)[j];
                if (index >= 0 && behind(found[0], where[0], value, index)) replace_root(found, where, k, value, index);
            }
        sort_heap(found, where, k);
        if (s.metric != sslkernels::kEuclidean) return;
        for (int64_t j = 0; j < k; ++j) {
            Acc apart = INFINITY;
            if (where[j] >= 0) apart = distance<In, Acc>(row<In>(x, i), row<In>(y, where[j]), s.d);
            if (!(apart < Acc(INFINITY))) apart = INFINITY, where[j] = -1;
            found[j] = apart;
        }
        sort_distances(found, where, k);
    }
};

} // namespace
