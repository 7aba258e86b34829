// SPDX-License-Identifier: Apache-2.0
// Puts rows of a student in the order of the teacher's rows that they follow, and cuts them into blocks. For each block
// it lists those rows of the teacher, so that each is there once, however many follow it.
// Cost: O(rows * each + rows of the teacher).
#pragma once
#include "../integers.h"
#include "../memory.h"
#include "kernels.h"

namespace {

using sslkernels::Comparison;

template <class Acc> struct Followers {
    int64_t rows = 0;            // that follow somebody; others may hold anything, and are left out
    int64_t blocks = 0, side;    // of at most `side` rows
    int64_t most = 0;            // rows of the teacher that a block has at most
    int64_t *order, *known;      // (rows,): places of the student's rows; (known of a block): of the teacher's
    int64_t *first_known;        // (blocks + 1,): where the known rows of a block begin
    int64_t *first_pair, *place; // (rows + 1,): where the pairs of a row begin; (pairs,): among the known of its block
    Acc *share;                  // (pairs,)

    static int64_t bytes(const Comparison &c) {
        const int64_t n = c.student.count, pairs = n * c.each, whole = int64_t(sizeof(int64_t));
        return (3 * n + 2 * pairs + 2 * c.teacher.count + 4) * whole + pairs * int64_t(sizeof(Acc)) + 8 * 64;
    }
    Followers(const Comparison &c, int64_t side, Memory &memory) : side(side) {
        const int64_t n = c.student.count, pairs = n * c.each, m = c.teacher.count, whole = int64_t(sizeof(int64_t));
        const auto indices = [&](int64_t count) { return reinterpret_cast<int64_t *>(memory.take(count * whole)); };
        const auto numbers = [&](int64_t count) {
            return reinterpret_cast<Acc *>(memory.take(count * int64_t(sizeof(Acc))));
        };
        order = indices(n), known = indices(pairs), first_known = indices(n + 1), first_pair = indices(n + 1);
        place = indices(pairs), share = numbers(pairs);
        sort(c, indices(m + 1));
        list(c, indices(m + 1));
    }
    int64_t length(int64_t block) const { return least(side, rows - block * side); }
    int64_t known_of(int64_t block) const { return first_known[block + 1] - first_known[block]; }

  private:
    static bool follows(const Comparison &c, int64_t pair) {
        return c.index[pair] >= 0 && static_cast<const Acc *>(c.share)[pair] != 0;
    }
    // Sorts rows by the last row of the teacher that they follow.
    void sort(const Comparison &c, int64_t *begin) {
        memset(begin, 0, (c.teacher.count + 1) * sizeof(int64_t));
        const auto last = [&](int64_t i) {
            int64_t found = -1;
            for (int64_t pair = i * c.each; pair < (i + 1) * c.each; ++pair)
                if (follows(c, pair) && c.index[pair] > found) found = c.index[pair];
            return found;
        };
        for (int64_t i = 0; i < c.student.count; ++i) ++begin[last(i) + 1];
        begin[0] = 0; // those that follow nobody have no place
        for (int64_t m = 0; m < c.teacher.count; ++m) begin[m + 1] += begin[m];
        rows = begin[c.teacher.count];
        blocks = (rows + side - 1) / side;
        for (int64_t i = 0; i < c.student.count; ++i)
            if (const int64_t m = last(i); m >= 0) order[begin[m]++] = i;
    }
    // Lists the pairs of each row, and the rows of the teacher in each block. `seen` holds where a row of the teacher
    // stands among all known, and counts as unseen what stands before the block.
    void list(const Comparison &c, int64_t *seen) {
        int64_t listed = 0, pairs = 0;
        memset(seen, -1, c.teacher.count * sizeof(int64_t));
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = first_known[block] = listed;
            for (int64_t r = block * side; r < block * side + length(block); ++r) {
                first_pair[r] = pairs;
                for (int64_t pair = order[r] * c.each; pair < (order[r] + 1) * c.each; ++pair) {
                    if (!follows(c, pair)) continue;
                    int64_t &at = seen[c.index[pair]];
                    if (at < first) at = listed, known[listed++] = c.index[pair];
                    place[pairs] = at - first;
                    share[pairs++] = static_cast<const Acc *>(c.share)[pair];
                }
            }
            most = listed - first > most ? listed - first : most;
        }
        first_known[blocks] = listed, first_pair[rows] = pairs;
    }
};

} // namespace
