// SPDX-License-Identifier: Apache-2.0
// Sums cos(t_k p) and sin(t_k p) over samples at equally spaced knots t_k = k * step, and computes the adjoint. This is
// the empirical characteristic function of every slice, without the (samples, slices, knots) tensor.
//
//   z = e^(i step p)     is evaluated once, and z^8 once; z^2, z^3 and z^4 are products
//   knots K +- j         have a centre K = 8, 16, ... and j <= 4. With z^K = C + iS and z^j = c + is:
//                        sum cos = sum Cc -+ sum Ss,  sum sin = sum Sc +- sum Cs
//   forward              sums those four products: two multiply-adds per knot, the sum over samples included
//   backward             dp = sum_k t_k (g_sin cos - g_cos sin), the same products times combinations of gradients
//
// No chain of products is longer than 3 + knots / 8, so the error of knot k is at most (5 + k / 8) times that of an
// evaluation, plus as many roundings. Lanes are slices. A thread owns slices of a view and runs through their samples
// in order. It sums kSegment samples in fp32 (fp64) and adds these sums in fp64, so there are no atomics, and the bits
// are the same at any number of threads.
// Cost: about 120 operations (fp32) per projection for 17 knots, in the forward and in the backward. Both read p once,
// and the backward writes dp once. Derivation and measurements: docs/design/sigreg.md
#include "../dtypes.h"
#include "../integers.h"
#include "../memory.h"
#include "../threads.h"
#include "../variant.h"
#include "circle.h"
#include "kernels.h"

namespace {

using sslkernels::Characteristic;

constexpr int kNear = 4;  // knots on each side of a centre
constexpr int kApart = 8; // knots from one centre to the next
constexpr int kPerNear = 2, kPerPair = 4, kPerCentre = 2 + kPerPair * kNear;
constexpr int64_t kSegment = 64; // samples
// Samples whose powers are in registers together. AVX-512 has 32 registers, which hold two and halve the trips of the
// sums to the cache. 16 registers hold one (sums in AVX2 take 9 ms with one, 19 with two).
constexpr int kRows = SSLK_VECTOR_BYTES == 64 ? 2 : 1;

inline int64_t centres_of(int64_t knots) { return knots - 1 > kNear ? (knots - 1 - kNear + kApart - 1) / kApart : 0; }
inline int64_t products_of(int64_t knots) { return kPerNear * kNear + kPerCentre * centres_of(knots); }
// The index of the four products of centre m = 1, 2, ... and offset j = 1 to 4. The centre's own two come before them.
inline int64_t pair_at(int64_t m, int64_t j) {
    return kPerNear * kNear + kPerCentre * (m - 1) + 2 + kPerPair * (j - 1);
}
inline int64_t centre_at(int64_t m) { return pair_at(m, 1) - 2; }

template <class T> struct Powers { // z, z^2, z^3, z^4 and z^8
    Point<T> near[kNear], far;
};
template <class T> inline Powers<T> powers(Vector<T> p, const T *turns) {
    const Turn<T> angle = turn<T>(p, turns);
    const Point<T> z = point<T>(angle, 1), z2 = squared<T>(z);
    return {{z, z2, times<T>(z2, z), squared<T>(z2)}, point<T>(angle, kApart)};
}

// Adds the products of kTogether samples to the sums.
template <class T, int kTogether>
inline void add_rows(const Vector<T> *p, const T *turns, int64_t centres, Vector<T> *sums) {
    Powers<T> z[kTogether];
    Point<T> centre[kTogether];
    for (int r = 0; r < kTogether; ++r) z[r] = powers<T>(p[r], turns), centre[r] = z[r].far;
    for (int j = 0; j < kNear; ++j, sums += kPerNear)
        for (int r = 0; r < kTogether; ++r) sums[0] += z[r].near[j].c, sums[1] += z[r].near[j].s;
    for (int64_t m = 1; m <= centres; ++m) {
        for (int r = 0; r < kTogether; ++r) sums[0] += centre[r].c, sums[1] += centre[r].s;
        sums += 2;
        for (int j = 0; j < kNear; ++j, sums += kPerPair) {
            Vector<T> cc = sums[0], ss = sums[1], sc = sums[2], cs = sums[3];
            for (int r = 0; r < kTogether; ++r) {
                const Point<T> a = centre[r], b = z[r].near[j];
                cc += a.c * b.c, ss += a.s * b.s, sc += a.s * b.c, cs += a.c * b.s;
            }
            sums[0] = cc, sums[1] = ss, sums[2] = sc, sums[3] = cs;
        }
        if (m < centres)
            for (int r = 0; r < kTogether; ++r) centre[r] = times<T>(centre[r], z[r].far);
    }
}

// Sums the products of one sample, each times its weight.
template <class T> inline Vector<T> weighted(Vector<T> p, const T *turns, int64_t centres, const Vector<T> *weights) {
    const Powers<T> z = powers<T>(p, turns);
    Point<T> centre = z.far;
    Vector<T> c = all<T>(0), s = all<T>(0);
    for (int j = 0; j < kNear; ++j, weights += kPerNear) c += z.near[j].c * weights[0], s += z.near[j].s * weights[1];
    Vector<T> total = c + s;
    for (int64_t m = 1; m <= centres; ++m) {
        c = weights[0], s = weights[1], weights += 2;
        for (int j = 0; j < kNear; ++j, weights += kPerPair) {
            const Point<T> b = z.near[j];
            c += b.c * weights[0] + b.s * weights[3];
            s += b.s * weights[1] + b.c * weights[2];
        }
        total += centre.c * c + centre.s * s;
        if (m < centres) centre = times<T>(centre, z.far);
    }
    return total;
}

template <class T> inline Vector<T> load_some(const T *p, int64_t count) {
    if (count == kLanes<T>) return load<T>(p);
    Vector<T> v = all<T>(0);
    memcpy(&v, p, count * sizeof(T));
    return v;
}
template <class T> inline void store_some(T *p, Vector<T> v, int64_t count) {
    if (count == kLanes<T>) return store<T>(p, v);
    memcpy(p, &v, count * sizeof(T));
}

// Calls f(view, first slice, slices, room for `bytes` of this thread) for every vector of slices of every view.
template <class T, class F> bool each_vector(const Characteristic &x, int64_t bytes, F f) {
    const int64_t across = (x.slices + kLanes<T> - 1) / kLanes<T>, jobs = x.views * across;
    const int64_t room = round_up(bytes, 64);
    const int threads = threads_for(x.views * x.n * x.slices * x.knots, x.threads);
    Memory memory(room * threads);
    if (!memory.data) return false;
    char *rooms = memory.take(room * threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t job = 0; job < jobs; ++job) {
        const int64_t first = job % across * kLanes<T>;
        f(job / across, first, least(kLanes<T>, x.slices - first), rooms + omp_get_thread_num() * room);
    }
    return true;
}

template <class T> bool sums_typed(const Characteristic &x, T *out) {
    const T turns[3] = {T(x.turns[0]), T(x.turns[1]), T(x.turns[2])};
    const int64_t centres = centres_of(x.knots), products = products_of(x.knots);
    const int64_t bytes = products * kLanes<T> * int64_t(sizeof(T) + sizeof(double));
    return each_vector<T>(x, bytes, [&](int64_t view, int64_t first, int64_t count, char *room) {
        double *totals = reinterpret_cast<double *>(room);
        Vector<T> *sums = reinterpret_cast<Vector<T> *>(totals + products * kLanes<T>);
        memset(totals, 0, products * kLanes<T> * sizeof(double));
        const T *p = static_cast<const T *>(x.p) + view * x.n * x.slices + first;
        for (int64_t start = 0; start < x.n; start += kSegment) {
            for (int64_t k = 0; k < products; ++k) sums[k] = all<T>(0);
            const int64_t end = least(start + kSegment, x.n);
            int64_t i = start;
            for (; i + kRows <= end; i += kRows) {
                Vector<T> rows[kRows];
                for (int r = 0; r < kRows; ++r) rows[r] = load_some<T>(p + (i + r) * x.slices, count);
                add_rows<T, kRows>(rows, turns, centres, sums);
            }
            for (; i < end; ++i) {
                const Vector<T> last = load_some<T>(p + i * x.slices, count);
                add_rows<T, 1>(&last, turns, centres, sums);
            }
            for (int64_t k = 0; k < products; ++k)
                for (int l = 0; l < kLanes<T>; ++l) totals[k * kLanes<T> + l] += double(sums[k][l]);
        }
        T *cosines = out + view * 2 * x.knots * x.slices + first, *sines = cosines + x.knots * x.slices;
        auto put = [&](int64_t k, int64_t c, double flip, int64_t s, double turned) {
            if (k >= x.knots) return;
            const bool pair = flip != 0;
            for (int64_t l = 0; l < count; ++l) {
                const double *at = totals + l;
                const int64_t L = kLanes<T>;
                cosines[k * x.slices + l] = T(at[c * L] + (pair ? flip * at[(c + 1) * L] : 0));
                sines[k * x.slices + l] = T(at[s * L] + (pair ? turned * at[(s + 1) * L] : 0));
            }
        };
        for (int64_t l = 0; l < count; ++l) cosines[l] = T(x.n), sines[l] = 0;
        for (int64_t j = 1; j <= kNear; ++j) put(j, kPerNear * (j - 1), 0, kPerNear * (j - 1) + 1, 0);
        for (int64_t m = 1; m <= centres; ++m) {
            put(kApart * m, centre_at(m), 0, centre_at(m) + 1, 0);
            for (int64_t j = 1; j <= kNear; ++j) {
                const int64_t at = pair_at(m, j);
                put(kApart * m + j, at, -1, at + 2, 1);
                if (j < kNear) put(kApart * m - j, at, 1, at + 2, -1);
            }
        }
    });
}

template <class T> bool adjoint_typed(const Characteristic &x, const T *grad, T *dp) {
    const T turns[3] = {T(x.turns[0]), T(x.turns[1]), T(x.turns[2])};
    const int64_t centres = centres_of(x.knots), products = products_of(x.knots);
    return each_vector<T>(
        x, products * int64_t(sizeof(Vector<T>)), [&](int64_t view, int64_t first, int64_t count, char *room) {
            Vector<T> *weights = reinterpret_cast<Vector<T> *>(room);
            const T *of_cosines = grad + view * 2 * x.knots * x.slices + first;
            const T *of_sines = of_cosines + x.knots * x.slices;
            // The weights of cos(t_k p) and sin(t_k p), which are zero beyond the last knot.
            auto for_cosine = [&](int64_t k) {
                return k < x.knots ? load_some<T>(of_sines + k * x.slices, count) * T(double(k) * x.step) : all<T>(0);
            };
            auto for_sine = [&](int64_t k) {
                return k < x.knots ? load_some<T>(of_cosines + k * x.slices, count) * T(-double(k) * x.step)
                                   : all<T>(0);
            };
            for (int64_t j = 1; j <= kNear; ++j) {
                weights[kPerNear * (j - 1)] = for_cosine(j);
                weights[kPerNear * (j - 1) + 1] = for_sine(j);
            }
            for (int64_t m = 1; m <= centres; ++m) {
                const int64_t centre = kApart * m;
                weights[centre_at(m)] = for_cosine(centre), weights[centre_at(m) + 1] = for_sine(centre);
                for (int64_t j = 1; j <= kNear; ++j) {
                    const Vector<T> zero = all<T>(0), c = for_cosine(centre + j), s = for_sine(centre + j);
                    const Vector<T> c_below =
                        j < kNear ? for_cosine(centre - j) : zero; // the centre below has the last
                    const Vector<T> s_below = j < kNear ? for_sine(centre - j) : zero;
                    Vector<T> *pair = weights + pair_at(m, j);
                    pair[0] = c + c_below, pair[1] = c_below - c, pair[2] = s + s_below, pair[3] = s - s_below;
                }
            }
            const int64_t offset = view * x.n * x.slices + first;
            const T *p = static_cast<const T *>(x.p) + offset;
            T *out = dp + offset;
            for (int64_t i = 0; i < x.n; ++i)
                store_some<T>(out + i * x.slices,
                              weighted<T>(load_some<T>(p + i * x.slices, count), turns, centres, weights), count);
        });
}

bool sums(const Characteristic &x, void *out) {
    return x.dtype == sslkernels::kFloat64 ? sums_typed<double>(x, static_cast<double *>(out))
                                           : sums_typed<float>(x, static_cast<float *>(out));
}
bool adjoint(const Characteristic &x, const void *grad, void *dp) {
    return x.dtype == sslkernels::kFloat64
               ? adjoint_typed<double>(x, static_cast<const double *>(grad), static_cast<double *>(dp))
               : adjoint_typed<float>(x, static_cast<const float *>(grad), static_cast<float *>(dp));
}

} // namespace

namespace sslkernels {
template <> const SigregKernels &kernels_for<SigregKernels, SSLK_VARIANT>() {
    static const SigregKernels table = {sums, adjoint};
    return table;
}
} // namespace sslkernels
