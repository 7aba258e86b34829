// SPDX-License-Identifier: Apache-2.0
// Log-sum-exp of S = s*X*Y^T over rows and columns, and its gradient, without the matrix.
//
//   forward   (max, sum) per row in base 2, t = s*log2(e)*<x, y>; one running pair per owner, merged exactly
//   backward  G = a_i 2^(t - lse_i) + b_j 2^(t - lse_j);  dX = s*G*Y,  dY = s*G^T*X,  ds = sum x . (G*Y)
//
// Blocks of owners (in vector lanes) meet blocks of others. A pair of blocks serves both sides where both are wanted:
//   x with itself   groups of blocks meet as in a round-robin tournament, so that no two threads ever write one row
//   x with y        groups meet along the diagonals of a Latin square
//   one side only   each thread keeps its owners
// No atomics, no copies per thread, and the order of every sum depends on the thread count alone.
// Cost: 2*N*M*D operations forward, 4 to 6*N*M*D backward, half of that for x with itself; O((N+M)*D) bytes.
// Derivation and measurements: docs/design/similarity.md
#include "tiles.h"
#include <stdlib.h>

namespace {

using sslkernels::Similarity;
using sslkernels::SimilarityGrad;

constexpr double kLog2e = 1.4426950408889634, kLn2 = 0.6931471805599453;
// Values within 2^80 of each other share one exponential: sums and products stay normal in fp32.
constexpr double kSharedRange = 80;
constexpr double kLowest = -1e30, kNeutral = 1e30;

struct Exclusion { // of pairs (owner, other); entry e of a row names an index on the other side
    const int64_t *by_owner, *by_other;
    int64_t entries;
    bool shared; // a pair is left out of both sides' sums, whichever table names it
};

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// (M, S) <- the sum of (M, S) and (m, s), each meaning s * 2^m.
template <class Acc> void merge(Acc *M, Acc *S, const Acc *m, const Acc *s, int64_t count) {
    constexpr int L = kLanes<Acc>;
    for (int64_t i = 0; i < count; i += L) {
        const int64_t n = least(L, count - i);
        Acc block[4][L] = {};
        memcpy(block[0], M + i, n * sizeof(Acc));
        memcpy(block[1], S + i, n * sizeof(Acc));
        memcpy(block[2], m + i, n * sizeof(Acc));
        memcpy(block[3], s + i, n * sizeof(Acc));
        const Vector<Acc> old = load(block[0]), add = load(block[2]), top = larger<Acc>(old, add);
        store(block[1], load(block[1]) * exp2v(old - top) + load(block[3]) * exp2v(add - top));
        store(block[0], top);
        memcpy(M + i, block[0], n * sizeof(Acc));
        memcpy(S + i, block[1], n * sizeof(Acc));
    }
}

// The tiles of one pair of blocks: packing, products, and which of them hold an excluded pair.
template <class P, class In> struct Tiles {
    using Acc = typename P::Acc;
    using Elem = typename P::Elem;
    static constexpr int MR = P::MR, NR = P::NR, L = kLanes<Acc>;

    Rows owners, others;
    int64_t d, steps;
    Acc scale2; // scale * log2(e)
    Exclusion exclusion;
    Elem *owner_lanes, *other_rows, *owner_features, *other_features, *by_other, *by_owner;
    bool features; // a gradient follows: pack rows as its right-hand side too
    int64_t o0, co, i0, ci;
    bool dirty[kBlock / MR][kBlock / NR];

    static int64_t padded(int64_t d) { return round_up(d, NR); }
    static int64_t bytes(int64_t d, bool features) {
        const int64_t side = kBlock * padded(d) * int64_t(sizeof(Elem));
        return side * (features ? 4 : 2) + 2 * kBlock * kBlock * int64_t(sizeof(Acc));
    }
    void use(char *memory) {
        const int64_t side = kBlock * padded(d);
        owner_lanes = reinterpret_cast<Elem *>(memory);
        other_rows = owner_lanes + side;
        owner_features = features ? other_rows + side : nullptr;
        other_features = P::kPack == 1 ? other_rows : features ? owner_features + side : nullptr;
        by_other = other_rows + (features ? 3 : 1) * side;
        by_owner = P::kPack == 1 ? by_other : by_other + kBlock * kBlock;
        steps = (d + P::kPack - 1) / P::kPack;
    }
    void take_owners(int64_t first, int64_t count, bool both) {
        o0 = first, co = count;
        pack_lanes<P, In>(owners, o0, co, d, owner_lanes);
        if (features && both) pack_features<P, In>(owners, o0, co, d, owner_features);
    }
    void take_others(int64_t first, int64_t count) {
        i0 = first, ci = count;
        pack_others<P, In>(others, i0, ci, d, other_rows);
        if (features && P::kPack > 1) pack_features<P, In>(others, i0, ci, d, other_features);
        memset(dirty, 0, sizeof dirty);
        each_pair(exclusion.by_owner, o0, co, i0, ci, [this](int64_t n, int64_t m) { dirty[m / MR][n / NR] = true; });
        each_pair(exclusion.by_other, i0, ci, o0, co, [this](int64_t m, int64_t n) { dirty[m / MR][n / NR] = true; });
    }
    // f(k, l) for every entry of rows first + k that names an index start + l within reach.
    template <class F>
    void each_pair(const int64_t *table, int64_t first, int64_t rows, int64_t start, int64_t reach, F f) const {
        if (!table) return;
        const int64_t E = exclusion.entries, *entry = table + first * E;
        for (int64_t k = 0; k < rows; ++k)
            for (int64_t e = 0; e < E; ++e, ++entry)
                if (uint64_t(*entry - start) < uint64_t(reach)) f(k, *entry - start);
    }
    void tile(int64_t m0, int64_t n0, Acc *t) const {
        dot_tile<P>(other_rows + m0 * NR, kBlock * NR, owner_lanes + n0 * steps, steps, t);
        for (int k = 0; k < MR * NR; k += L) store(t + k, load(t + k) * scale2);
    }
    bool clean(int64_t m0, int64_t n0) const { return !dirty[m0 / MR][n0 / NR]; }
    // A tile as its owners see it (own) and, unless null, as the others do (oth): -inf where that side leaves the pair
    // out, or where there is no row.
    void masked(int64_t m0, int64_t n0, const Acc *t, Acc *own, Acc *oth) const {
        const Acc nothing = -Acc(INFINITY);
        const int64_t rows = least(MR, ci - m0), lanes = least(NR, co - n0);
        if (own != t) memcpy(own, t, MR * NR * sizeof(Acc));
        for (int64_t m = rows; m < MR; ++m)
            for (int n = 0; n < NR; ++n) own[m * NR + n] = nothing;
        for (int64_t n = lanes; n < NR; ++n)
            for (int m = 0; m < MR; ++m) own[m * NR + n] = nothing;
        if (oth) memcpy(oth, own, MR * NR * sizeof(Acc));
        if (clean(m0, n0)) return;
        const bool shared = exclusion.shared;
        each_pair(exclusion.by_owner, o0 + n0, lanes, i0 + m0, rows, [=](int64_t n, int64_t m) {
            own[m * NR + n] = nothing;
            if (oth && shared) oth[m * NR + n] = nothing;
        });
        each_pair(exclusion.by_other, i0 + m0, rows, o0 + n0, lanes, [=](int64_t m, int64_t n) {
            if (oth) oth[m * NR + n] = nothing;
            if (shared) own[m * NR + n] = nothing;
        });
    }
};

// Running (max, sum) of owners, kept while they sweep the others, and of the others, merged strip by strip.
template <class P, class In> struct LogSumExp : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    Acc *owner_max, *owner_sum, *other_max, *other_sum; // whole problem
    Acc shared_max[kBlock / P::NR], shared_sum[kBlock], own_max[kBlock], own_sum[kBlock];

    void begin(int64_t first, int64_t count, bool both) {
        this->take_owners(first, count, both);
        for (Acc &x : shared_max) x = Acc(kLowest);
        for (int n = 0; n < kBlock; ++n) own_max[n] = Acc(kLowest), own_sum[n] = shared_sum[n] = 0;
    }
    void end() {
        Acc maxima[kBlock];
        for (int n = 0; n < kBlock; ++n) maxima[n] = shared_max[n / NR];
        merge(owner_max + o0, owner_sum + o0, maxima, shared_sum, co);
        merge(owner_max + o0, owner_sum + o0, own_max, own_sum, co);
    }
    void meet(int64_t first, int64_t count, bool both) {
        this->take_others(first, count);
        for (int64_t m0 = 0; m0 < ci; m0 += MR) {
            Acc strip_max = Acc(kLowest), row_max[MR], row_sum[MR];
            Vector<Acc> strip_sum[MR] = {};
            for (int m = 0; m < MR; ++m) row_max[m] = Acc(kLowest), row_sum[m] = 0;
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc t[P::MR * P::NR];
                this->tile(m0, n0, t);
                Acc top, bottom;
                range(t, top, bottom);
                if (this->clean(m0, n0) && top - bottom < Acc(kSharedRange))
                    shared(t, top, m0, n0, both, strip_max, strip_sum);
                else
                    apart(t, m0, n0, both, row_max, row_sum);
            }
            if (!both) continue;
            const int64_t rows = least(MR, ci - m0);
            Acc maxima[MR], sums[MR];
            for (int m = 0; m < MR; ++m) maxima[m] = strip_max, sums[m] = sum<Acc>(strip_sum[m]);
            merge(other_max + i0 + m0, other_sum + i0 + m0, maxima, sums, rows);
            merge(other_max + i0 + m0, other_sum + i0 + m0, row_max, row_sum, rows);
        }
    }
    static void range(const Acc *t, Acc &top, Acc &bottom) {
        Vector<Acc> high = load(t), low = high;
        for (int k = L; k < P::MR * P::NR; k += L) {
            const Vector<Acc> v = load(t + k);
            high = larger<Acc>(high, v), low = smaller<Acc>(low, v);
        }
        top = largest<Acc>(high), bottom = smallest<Acc>(low);
    }
    // Every entry lies within 2^80 of the tile's maximum: one exponential serves its row and its column.
    void shared(const Acc *t, Acc top, int64_t m0, int64_t n0, bool both, Acc &strip_max, Vector<Acc> *strip_sum) {
        Vector<Acc> columns[3] = {}, rows[P::MR] = {}, there[3];
        for (int v = 0; v < 3; ++v)
            for (int l = 0; l < L; ++l) there[v][l] = Acc(n0 + v * L + l < co);
        const int valid = int(least(MR, ci - m0));
        for (int m = 0; m < valid; ++m)
            for (int v = 0; v < 3; ++v) {
                const Vector<Acc> e = exp2v(load(t + m * NR + v * L) - top);
                columns[v] += e * there[v], rows[m] += e * there[v];
            }
        Acc &maximum = shared_max[n0 / NR];
        Acc keep = 1, add = 1;
        rebase(maximum, top, keep, add);
        for (int v = 0; v < 3; ++v) {
            Acc *at = shared_sum + n0 + v * L;
            store(at, load(at) * keep + columns[v] * add);
        }
        if (!both) return;
        keep = add = 1;
        rebase(strip_max, top, keep, add);
        for (int m = 0; m < MR; ++m) strip_sum[m] = strip_sum[m] * keep + rows[m] * add;
    }
    static void rebase(Acc &maximum, Acc top, Acc &keep, Acc &add) {
        if (top > maximum) {
            keep = exp2s<Acc>(maximum - top);
            maximum = top;
        } else {
            add = exp2s<Acc>(top - maximum);
        }
    }
    void apart(const Acc *t, int64_t m0, int64_t n0, bool both, Acc *row_max, Acc *row_sum) {
        Acc own[P::MR * P::NR], oth[P::MR * P::NR];
        this->masked(m0, n0, t, own, both ? oth : nullptr);
        for (int v = 0; v < NR; v += L) {
            const Vector<Acc> old = load(own_max + n0 + v);
            Vector<Acc> top = old;
            for (int m = 0; m < MR; ++m) top = larger<Acc>(top, load(own + m * NR + v));
            Vector<Acc> total = load(own_sum + n0 + v) * exp2v(old - top);
            for (int m = 0; m < MR; ++m) total += exp2v(load(own + m * NR + v) - top);
            store(own_max + n0 + v, top);
            store(own_sum + n0 + v, total);
        }
        if (!both) return;
        for (int m = 0; m < MR; ++m) {
            Vector<Acc> high = all<Acc>(row_max[m]), total = {};
            for (int v = 0; v < NR; v += L) high = larger<Acc>(high, load(oth + m * NR + v));
            const Acc top = largest<Acc>(high);
            for (int v = 0; v < NR; v += L) total += exp2v(load(oth + m * NR + v) - top);
            row_sum[m] = row_sum[m] * exp2s<Acc>(row_max[m] - top) + sum<Acc>(total);
            row_max[m] = top;
        }
    }
};

// Row log-sum-exp and softmax(S)*Y in one pass, as attention: owners' sums are rescaled when their maximum moves.
template <class P, class In> struct Attend : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0;

    Acc *owner_max, *owner_sum, *attended; // attended: (owners, ld)
    int64_t ld;
    Acc *logits; // kBlock x kBlock for each thread

    void use(char *memory) {
        Base::use(memory);
        logits += int64_t(omp_get_thread_num()) * kBlock * kBlock;
    }
    void begin(int64_t first, int64_t count, bool both) { this->take_owners(first, count, both); }
    void end() {
        for (int64_t n = o0; n < o0 + co; ++n) {
            const Acc inverse = owner_sum[n] == 0 ? Acc(0) : 1 / owner_sum[n];
            for (int64_t k = 0; k < this->d; ++k) attended[n * ld + k] *= inverse;
        }
    }
    void meet(int64_t first, int64_t count, bool) {
        this->take_others(first, count);
        Acc top[kBlock], total[kBlock] = {};
        for (int n = 0; n < kBlock; ++n) top[n] = n < co ? owner_max[o0 + n] : Acc(kLowest);
        const int64_t strips = round_up(ci, MR), lanes = round_up(co, NR);
        for (int64_t m0 = 0; m0 < strips; m0 += MR)
            for (int64_t n0 = 0; n0 < lanes; n0 += NR) {
                Acc t[P::MR * P::NR];
                this->tile(m0, n0, t);
                if (!this->clean(m0, n0) || m0 + MR > ci) this->masked(m0, n0, t, t, nullptr);
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < NR; v += L) {
                        const Vector<Acc> x = load(t + m * NR + v);
                        store(logits + (m0 + m) * kBlock + n0 + v, x);
                        store(top + n0 + v, larger<Acc>(load(top + n0 + v), x));
                    }
            }
        for (int64_t m0 = 0; m0 < strips; m0 += MR)
            for (int64_t n0 = 0; n0 < lanes; n0 += NR) {
                Acc g[P::MR * P::NR];
                for (int m = 0; m < MR; ++m)
                    for (int v = 0; v < NR; v += L) {
                        const Vector<Acc> e = exp2v(load(logits + (m0 + m) * kBlock + n0 + v) - load(top + n0 + v));
                        store(g + m * NR + v, e);
                        store(total + n0 + v, load(total + n0 + v) + e);
                    }
                P::keep(g, m0, n0, this->by_other, this->by_owner);
            }
        for (int64_t n = 0; n < co; ++n) {
            const Acc factor = exp2s<Acc>(owner_max[o0 + n] - top[n]);
            owner_sum[o0 + n] = owner_sum[o0 + n] * factor + total[n];
            owner_max[o0 + n] = top[n];
            if (factor != 1)
                for (int64_t k = 0; k < this->d; ++k) attended[(o0 + n) * ld + k] *= factor;
        }
        grad_block<P, true>(this->by_owner, co, (ci + P::kPack - 1) / P::kPack, this->other_features, this->d,
                            attended + o0 * ld, ld);
    }
};

// One side's part of the gradient: weights grad * 2^(t - lse), and where they are added up.
template <class Acc> struct Side {
    Acc *lse, *grad; // base 2; a row without gradient has lse = kNeutral
    Acc *moved;      // (rows, ld): the unscaled gradient, or null
};

template <class P, class In> struct Gradient : Tiles<P, In> {
    using Base = Tiles<P, In>;
    using Acc = typename P::Acc;
    using Base::co, Base::ci, Base::MR, Base::NR, Base::L, Base::o0, Base::i0;

    Side<Acc> own, oth;
    int64_t ld;

    void begin(int64_t first, int64_t count, bool both) { this->take_owners(first, count, both); }
    void end() {}
    void meet(int64_t first, int64_t count, bool both) {
        this->take_others(first, count);
        Acc low = Acc(kNeutral), high = Acc(kLowest);
        const bool finite = widen_range(own, o0, co, low, high) & widen_range(oth, i0, ci, low, high);
        if (finite && high == Acc(kLowest)) return; // no gradient arrives here
        const bool narrow_range = finite && high - low < Acc(kSharedRange);
        const Acc middle = narrow_range ? low + (high - low) / 2 : Acc(0);
        Weights a(own, o0, co, middle), b(oth, i0, ci, middle);
        for (int64_t m0 = 0; m0 < ci; m0 += MR)
            for (int64_t n0 = 0; n0 < co; n0 += NR) {
                Acc g[P::MR * P::NR];
                this->tile(m0, n0, g);
                if (narrow_range && this->clean(m0, n0))
                    shared(g, middle, a.shifted + n0, b.shifted + m0);
                else
                    apart(g, m0, n0, a, b);
                P::keep(g, m0, n0, this->by_other, this->by_owner);
            }
        grad_block<P, true>(this->by_owner, co, (ci + P::kPack - 1) / P::kPack, this->other_features, this->d,
                            own.moved + o0 * ld, ld);
        if (both)
            grad_block<P, false>(this->by_other, ci, (co + P::kPack - 1) / P::kPack, this->owner_features, this->d,
                                 oth.moved + i0 * ld, ld);
    }
    static bool widen_range(const Side<Acc> &side, int64_t first, int64_t count, Acc &low, Acc &high) {
        bool finite = true;
        for (int64_t i = first; side.lse && i < first + count; ++i) {
            const Acc x = side.lse[i];
            if (x == Acc(kNeutral)) continue;
            finite &= x - x == 0;
            low = x < low ? x : low;
            high = x > high ? x : high;
        }
        return finite;
    }
    // One block of a side; rows past its end are neutral. shifted = grad * 2^(middle - lse).
    struct Weights {
        Acc lse[kBlock], grad[kBlock], shifted[kBlock];
        Weights(const Side<Acc> &side, int64_t first, int64_t count, Acc middle) {
            for (int i = 0; i < kBlock; ++i) {
                const bool there = side.lse && i < count;
                lse[i] = there ? side.lse[first + i] : Acc(kNeutral);
                grad[i] = there ? side.grad[first + i] : Acc(0);
            }
            for (int i = 0; i < kBlock; i += L) store(shifted + i, load(grad + i) * exp2v(middle - load(lse + i)));
        }
    };
    static void shared(Acc *g, Acc middle, const Acc *a, const Acc *b) {
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L) {
                // A pair with no gradient on either side may exceed its sums: keep 2^x finite, it meets a zero.
                const Vector<Acc> e = exp2v(smaller<Acc>(all<Acc>(Acc(100)), load(g + m * NR + v) - middle));
                store(g + m * NR + v, e * (load(a + v) + b[m]));
            }
    }
    void apart(Acc *g, int64_t m0, int64_t n0, const Weights &a, const Weights &b) const {
        Acc mine[P::MR * P::NR], theirs[P::MR * P::NR];
        this->masked(m0, n0, g, mine, theirs);
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NR; v += L) {
                const int k = m * NR + v;
                const Vector<Acc> own_weight = exp2v(load(mine + k) - load(a.lse + n0 + v));
                const Vector<Acc> other_weight = exp2v(load(theirs + k) - b.lse[m0 + m]);
                store(g + k, load(a.grad + n0 + v) * own_weight + b.grad[m0 + m] * other_weight);
            }
    }
};

// ---- schedules: which blocks meet, on which thread, in which order ----

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
        w.meet(o.first(b), o.length(b), false); // the diagonal block is whole: each row meets all the others in it
        w.end();
    }
}
enum class Meeting { kOneSide, kBothSides, kItself };

template <class W>
void run(const W &job, Meeting meeting, Blocks o, Blocks i, int threads, char *memory, int64_t each) {
#pragma omp parallel num_threads(threads)
    {
        const int t = omp_get_thread_num(), T = omp_get_num_threads();
        W w = job;
        w.use(memory + t * each);
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
    int threads;
    int64_t block;
};
// Enough rows per thread to fill a block where possible; blocks shrink where rows are wide, to stay in the L2 cache.
template <class P> Plan plan(Meeting meeting, int64_t owners, int64_t others, int64_t d, int threads) {
    const int64_t sides = meeting == Meeting::kOneSide ? 1 : 2;
    const int64_t rows = meeting == Meeting::kBothSides ? least(owners, others) : owners;
    int64_t T = owners * others * d < (1 << 20) ? 1 : least(threads, rows / (sides * 48));
    T = T < 1 ? 1 : T;
    const int64_t most = d > 768 ? kBlock / 2 : kBlock;
    int64_t block = round_up((rows + sides * T - 1) / (sides * T), P::NR);
    block = T == 1 ? most : least(block, most);
    return {int(T), block};
}

// Fresh pages cost more than a small problem's arithmetic: each calling thread keeps its last scratch up to this size.
constexpr int64_t kKeptBytes = 8 << 20;
struct Scratch {
    char *data = nullptr;
    int64_t bytes = 0;
    ~Scratch() { free(data); }
};
thread_local Scratch kept_scratch;

struct Memory { // one allocation, cut into 64-byte aligned pieces
    char *data = nullptr, *next = nullptr;
    int64_t bytes;
    explicit Memory(int64_t needed) : bytes(round_up(needed + 64, 64)) {
        if (kept_scratch.bytes >= bytes) {
            data = kept_scratch.data, bytes = kept_scratch.bytes;
            kept_scratch.data = nullptr, kept_scratch.bytes = 0;
        } else {
            data = static_cast<char *>(aligned_alloc(64, bytes));
        }
        next = data;
    }
    ~Memory() {
        const bool keep = data && bytes <= kKeptBytes && bytes > kept_scratch.bytes;
        free(keep ? kept_scratch.data : data);
        if (keep) kept_scratch.data = data, kept_scratch.bytes = bytes;
    }
    Memory(const Memory &) = delete;
    char *take(int64_t size) {
        char *at = next;
        next += round_up(size, 64);
        return at;
    }
};

template <class Acc> void fill(Acc *p, int64_t n, Acc x) {
    for (int64_t i = 0; i < n; ++i) p[i] = x;
}

template <class Acc> void finish_lse(const Acc *top, const Acc *total, int64_t n, void *out) {
    for (int64_t i = 0; i < n; ++i)
        static_cast<Acc *>(out)[i] =
            total[i] == 0 ? -Acc(INFINITY) : Acc((double(top[i]) + log2(double(total[i]))) * kLn2);
}

template <class P, class In> bool forward_typed(const Similarity &s, void *rows, void *columns, void *attended) {
    using Acc = typename P::Acc;
    const bool self = !s.y.data;
    const Rows y = self ? s.x : s.y;
    const int64_t n = s.x.count, m = y.count;
    const Meeting meeting = self && !columns ? Meeting::kItself : columns ? Meeting::kBothSides : Meeting::kOneSide;
    const Plan p = plan<P>(meeting, n, m, s.d, s.threads);
    const bool attend = attended;
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, attend), 64), ld = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == s.d;
    Memory memory(each * p.threads + 4 * 64 + 2 * (n + m) * int64_t(sizeof(Acc)) +
                  (attend ? p.threads * kBlock * kBlock * int64_t(sizeof(Acc)) : 0) +
                  (attend && !direct ? n * ld * int64_t(sizeof(Acc)) + 64 : 0) + 256);
    if (!memory.data) return false;
    char *scratch = memory.take(each * p.threads);
    Acc *state[4];
    for (int k = 0; k < 4; ++k) {
        state[k] = reinterpret_cast<Acc *>(memory.take((k < 2 ? n : m) * int64_t(sizeof(Acc))));
        fill(state[k], k < 2 ? n : m, Acc(k % 2 ? 0 : kLowest));
    }
    const Exclusion exclusion{s.exclude, meeting == Meeting::kItself ? s.exclude : nullptr, s.excluded,
                              meeting != Meeting::kItself};
    const Blocks o{n, p.block}, i{m, p.block};
    auto set = [&](auto &job) {
        job.owners = s.x, job.others = y, job.d = s.d, job.scale2 = Acc(s.scale * kLog2e), job.exclusion = exclusion;
        job.owner_max = state[0], job.owner_sum = state[1], job.features = attend;
    };
    if (attend) {
        Attend<P, In> job{};
        set(job);
        job.logits = reinterpret_cast<Acc *>(memory.take(p.threads * kBlock * kBlock * int64_t(sizeof(Acc))));
        job.attended =
            direct ? static_cast<Acc *>(attended) : reinterpret_cast<Acc *>(memory.take(n * ld * int64_t(sizeof(Acc))));
        job.ld = ld;
        memset(job.attended, 0, n * ld * sizeof(Acc));
        run(job, meeting, o, i, p.threads, scratch, each);
        if (!direct)
            for (int64_t r = 0; r < n; ++r)
                memcpy(static_cast<Acc *>(attended) + r * s.d, job.attended + r * ld, s.d * sizeof(Acc));
    } else {
        LogSumExp<P, In> job{};
        set(job);
        job.other_max = meeting == Meeting::kItself ? state[0] : state[2];
        job.other_sum = meeting == Meeting::kItself ? state[1] : state[3];
        run(job, meeting, o, i, p.threads, scratch, each);
    }
    finish_lse(state[0], state[1], n, rows);
    if (columns) finish_lse(state[2], state[3], m, columns);
    return true;
}

// lse in base 2, with rows that get no gradient (none arrives, or nothing was left to sum) made neutral.
template <class Acc> Side<Acc> side_of(const void *lse, const void *grad, int64_t n, Memory &memory) {
    Side<Acc> side{};
    if (!lse || !grad) return side;
    side.lse = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    side.grad = reinterpret_cast<Acc *>(memory.take(n * int64_t(sizeof(Acc))));
    for (int64_t i = 0; i < n; ++i) {
        const Acc x = static_cast<const Acc *>(lse)[i], g = static_cast<const Acc *>(grad)[i];
        const bool neutral = g == 0 || x == -Acc(INFINITY);
        side.lse[i] = neutral ? Acc(kNeutral) : Acc(x * kLog2e);
        side.grad[i] = neutral ? Acc(0) : g;
    }
    return side;
}

// out = scale * moved; returns sum x . moved
template <class In, class Acc>
double finish_gradient(const Rows &x, const Acc *moved, int64_t ld, int64_t d, double scale, void *out, int threads) {
    constexpr int kParts = 64; // a fixed split keeps the sum's order whatever the thread count
    double parts[kParts] = {};
#pragma omp parallel for schedule(static) num_threads(threads_for(x.count *d, threads))
    for (int part = 0; part < kParts; ++part)
        for (int64_t i = x.count * part / kParts; i < x.count * (part + 1) / kParts; ++i) {
            const In *in = row<In>(x, i);
            In *to = static_cast<In *>(out) + i * d;
            parts[part] += double(dot<Acc>(in, moved + i * ld, d));
            for (int64_t k = 0; k < d; ++k) to[k] = narrow<In>(Acc(Acc(scale) * moved[i * ld + k]));
        }
    double total = 0;
    for (double part : parts) total += part;
    return total;
}

template <class P, class In> bool backward_typed(const Similarity &s, const SimilarityGrad &grad) {
    using Acc = typename P::Acc;
    const bool self = !s.y.data;
    const Rows y = self ? s.x : s.y;
    const bool both = grad.dx && grad.dy, swap = !grad.dx;
    const Meeting meeting = self ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
    const Rows owners = swap ? y : s.x, others = swap ? s.x : y;
    const Plan p = plan<P>(meeting, owners.count, others.count, s.d, s.threads);
    const int64_t each = round_up(Tiles<P, In>::bytes(s.d, true), 64), ld = round_up(s.d, kLanes<Acc>);
    const bool direct = ld == s.d && sizeof(In) == sizeof(Acc);
    const int64_t moved_rows = owners.count + (both ? others.count : 0);
    Memory memory(each * p.threads + 2 * (s.x.count + y.count) * int64_t(sizeof(Acc)) + 8 * 64 +
                  (direct ? 0 : moved_rows * ld * int64_t(sizeof(Acc))));
    if (!memory.data) return false;
    Gradient<P, In> job{};
    char *scratch = memory.take(each * p.threads);
    Side<Acc> of_rows = side_of<Acc>(grad.rows, grad.rows_grad, s.x.count, memory);
    Side<Acc> of_columns = side_of<Acc>(grad.columns, grad.columns_grad, y.count, memory);
    job.own = swap ? of_columns : of_rows;
    job.oth = swap ? of_rows : of_columns;
    void *owner_out = swap ? grad.dy : grad.dx;
    auto moved = [&](void *out, int64_t count) {
        Acc *at = direct ? static_cast<Acc *>(out) : reinterpret_cast<Acc *>(memory.take(count * ld * sizeof(Acc)));
        memset(at, 0, count * ld * sizeof(Acc));
        return at;
    };
    job.own.moved = moved(owner_out, owners.count);
    job.oth.moved = self ? job.own.moved : both ? moved(grad.dy, others.count) : nullptr;
    job.owners = owners, job.others = others, job.d = s.d, job.ld = ld, job.scale2 = Acc(s.scale * kLog2e);
    job.exclusion = {swap ? nullptr : s.exclude, self || swap ? s.exclude : nullptr, s.excluded, !self};
    job.features = true;
    run(job, meeting, Blocks{owners.count, p.block}, Blocks{others.count, p.block}, p.threads, scratch, each);
    const double total = finish_gradient<In, Acc>(owners, job.own.moved, ld, s.d, s.scale, owner_out, s.threads);
    if (both) finish_gradient<In, Acc>(others, job.oth.moved, ld, s.d, s.scale, grad.dy, s.threads);
    *static_cast<Acc *>(grad.dscale) = Acc(self ? total / 2 : total);
    return true;
}

#if defined(__AVX512BF16__)
using PairsOrWide = Pairs;
#else
using PairsOrWide = Wide<float>;
#endif

bool similarity_forward(const Similarity &s, void *rows, void *columns, void *attended) {
    switch (s.dtype) {
    case sslkernels::kFloat64: return forward_typed<Wide<double>, double>(s, rows, columns, attended);
    case sslkernels::kBFloat16: return forward_typed<PairsOrWide, bf16>(s, rows, columns, attended);
    case sslkernels::kFloat16: return forward_typed<Wide<float>, f16>(s, rows, columns, attended);
    default: return forward_typed<Wide<float>, float>(s, rows, columns, attended);
    }
}
bool similarity_backward(const Similarity &s, const SimilarityGrad &grad) {
    switch (s.dtype) {
    case sslkernels::kFloat64: return backward_typed<Wide<double>, double>(s, grad);
    case sslkernels::kBFloat16: return backward_typed<PairsOrWide, bf16>(s, grad);
    case sslkernels::kFloat16: return backward_typed<Wide<float>, f16>(s, grad);
    default: return backward_typed<Wide<float>, float>(s, grad);
    }
}

// Calls f with a value of the dtype's type.
template <class F> void with_type(int dtype, F f) {
    switch (dtype) {
    case sslkernels::kFloat64: return f(double());
    case sslkernels::kBFloat16: return f(bf16());
    case sslkernels::kFloat16: return f(f16());
    default: return f(float());
    }
}
template <class T> struct Accumulator {
    using type = float;
};
template <> struct Accumulator<double> {
    using type = double;
};

void unit_rows_forward(int dtype, Rows z, int64_t d, int out_dtype, void *unit, void *norms, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        with_type(out_dtype, [&](auto out) {
            unit_rows_forward_typed<In, decltype(out), typename Accumulator<In>::type>(z, d, unit, norms, threads);
        });
    });
}
void unit_rows_backward(int dtype, const void *unit, const void *norms, Rows grad, int64_t d, int out_dtype, void *dz,
                        int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        with_type(out_dtype, [&](auto out) {
            unit_rows_backward_typed<In, decltype(out), typename Accumulator<In>::type>(unit, norms, grad, d, dz,
                                                                                        threads);
        });
    });
}
void row_dot_forward(int dtype, Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        row_dot_typed<In, typename Accumulator<In>::type>(x, y, d, shift, out, threads);
    });
}
void scale_rows(int dtype, Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift, int64_t n,
                void *out, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        scale_rows_typed<In, typename Accumulator<In>::type>(y, d, shift, grad, also, also_shift, n, out, threads);
    });
}

} // namespace

#define SSLK_CONCAT_(a, b) a##b
#define SSLK_CONCAT(a, b) SSLK_CONCAT_(a, b)
#define SSLK_TEXT_(a) #a
#define SSLK_TEXT(a) SSLK_TEXT_(a)

namespace sslkernels {
extern const Kernels SSLK_CONCAT(kernels_, SSLK_VARIANT);
const Kernels SSLK_CONCAT(kernels_, SSLK_VARIANT) = {
    SSLK_TEXT(SSLK_VARIANT), similarity_forward, similarity_backward, unit_rows_forward,
    unit_rows_backward,      row_dot_forward,    scale_rows};
} // namespace sslkernels
