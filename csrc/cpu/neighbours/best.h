// SPDX-License-Identifier: Apache-2.0
// Keeps the k best (value, index) of each row. Larger values are better, and of equal ones that of the lower index.
//   k = 1   the best is compared in lanes, a row of the tile at a time
//   k > 1   a heap whose root is the worst that is kept: a better one takes its place in O(log k) steps
// Rows meet the others in ascending order, so that a later one has to be better, and not only as good. Most tiles hold
// nothing better for any of their lanes, and cost one comparison of their maxima.
#pragma once
#include "../tiles.h"

namespace {

template <class Acc> inline bool behind(Acc value, int64_t index, Acc other, int64_t other_index) {
    return value < other || (value == other && index > other_index);
}

// Puts (value, index) in place of the root of a heap of k.
template <class Acc> inline void replace_root(Acc *values, int64_t *indices, int64_t k, Acc value, int64_t index) {
    int64_t at = 0;
    for (int64_t child = 1; child < k; child = 2 * at + 1) {
        if (child + 1 < k && behind(values[child + 1], indices[child + 1], values[child], indices[child])) ++child;
        if (!behind(values[child], indices[child], value, index)) break;
        values[at] = values[child], indices[at] = indices[child];
        at = child;
    }
    values[at] = value, indices[at] = index;
}

// Turns a heap into a list, best first.
template <class Acc> inline void sort_heap(Acc *values, int64_t *indices, int64_t k) {
    for (int64_t last = k - 1; last > 0; --last) {
        const Acc value = values[last];
        const int64_t index = indices[last];
        values[last] = values[0], indices[last] = indices[0];
        replace_root(values, indices, last, value, index);
    }
}

// Sorts distances, smallest first and equal ones by index. They are nearly in order, so that few of them move.
template <class Acc> inline void sort_distances(Acc *values, int64_t *indices, int64_t k) {
    for (int64_t place = 1; place < k; ++place) {
        const Acc value = values[place];
        const int64_t index = indices[place];
        int64_t at = place;
        for (; at > 0 && behind(-values[at - 1], indices[at - 1], -value, index); --at)
            values[at] = values[at - 1], indices[at] = indices[at - 1];
        values[at] = value, indices[at] = index;
    }
}

template <class Acc> inline bool any_above(Vector<Acc> a, Vector<Acc> b) {
#if defined(__AVX512F__)
    if constexpr (sizeof(Acc) == 4)
        return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
    else
        return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GT_OQ);
#else
    const auto above = a > b;
    int64_t words[sizeof above / 8], found = 0;
    memcpy(words, &above, sizeof above);
    for (const int64_t word : words) found |= word;
    return found;
#endif
}

// The kept ones of a block of owners. Lane n is owner n of the block; `floors` are the values that one has to beat.
template <class P> struct Best {
    using Acc = typename P::Acc;
    using Bits = typename VectorOf<Acc>::bits;
    static constexpr int MR = P::MR, NR = P::NR, L = kLanes<Acc>;

    Acc *values; // (owners, k)
    int64_t *indices;
    int64_t k;
    Acc floors[kBlock];

    void clear(int64_t first, int64_t count) {
        for (int64_t j = first * k; j < (first + count) * k; ++j) values[j] = -Acc(INFINITY), indices[j] = -1;
    }
    void begin(int64_t first, int64_t count) {
        values += first * k, indices += first * k;
        for (int64_t n = 0; n < kBlock; ++n) floors[n] = n < count ? values[n * k] : Acc(INFINITY);
    }
    void end(int64_t count) {
        if (k == 1) memcpy(values, floors, count * sizeof(Acc));
    }
    // Takes the better ones of a tile, whose owners begin at lane n0. Its `rows` others begin at index `first`, and
    // have a bias each unless it is null.
    void take(const Acc *t, const Acc *bias, int rows, int64_t first, int64_t n0) {
        if (bias)
            take_scores<true>(t, bias, rows, first, n0);
        else
            take_scores<false>(t, bias, rows, first, n0);
    }

  private:
    template <bool kBias>
    SSLK_INLINE void take_scores(const Acc *t, const Acc *bias, int rows, int64_t first, int64_t n0) {
        for (int v = 0; v < NR; v += L) {
            const Vector<Acc> floor = load(floors + n0 + v);
            Vector<Acc> top = floor;
            for (int m = 0; m < rows; ++m) { // NaN is never the larger one
                const Vector<Acc> product = load(t + m * NR + v);
                top = larger<Acc>(kBias ? product + bias[m] : product, top);
            }
            if (!any_above<Acc>(top, floor)) continue;
            if (k == 1)
                take_one<kBias>(t + v, bias, rows, first, n0 + v);
            else
                take_several<kBias>(t + v, bias, rows, first, n0 + v, top);
        }
    }
    template <bool kBias> void take_one(const Acc *t, const Acc *bias, int rows, int64_t first, int64_t n) {
        Vector<Acc> best = load(floors + n);
        Bits row = ~Bits{};
        for (int m = 0; m < rows; ++m) {
            const Vector<Acc> product = load(t + m * NR), score = kBias ? product + bias[m] : product;
            const auto above = score > best;
            best = above ? score : best;
            row = above ? Bits{} + m : row;
        }
        store(floors + n, best);
        for (int l = 0; l < L; ++l)
            if (row[l] < MR) indices[n + l] = first + row[l];
    }
    template <bool kBias>
    void take_several(const Acc *t, const Acc *bias, int rows, int64_t first, int64_t n, Vector<Acc> top) {
        Acc tops[L];
        store(tops, top);
        for (int l = 0; l < L; ++l) {
            if (!(tops[l] > floors[n + l])) continue;
            Acc *kept = values + (n + l) * k;
            for (int m = 0; m < rows; ++m) {
                const Acc score = kBias ? t[m * NR + l] + bias[m] : t[m * NR + l];
                if (!(score > kept[0])) continue;
                replace_root(kept, indices + (n + l) * k, k, score, first + m);
            }
            floors[n + l] = kept[0];
        }
    }
};

} // namespace
