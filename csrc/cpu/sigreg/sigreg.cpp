// SPDX-License-Identifier: Apache-2.0
// Sums cos(t_k p) and sin(t_k p) over samples at equally spaced knots t_k = k * step, and computes the adjoint. This is
// the empirical characteristic function of every slice, without the (samples, slices, knots) tensor.
//
//   z = e^(i step p)     is evaluated once, and z^8 once; z^2, z^3 and z^4 are products
//   knots K +- j         have a centre K = 8, 16, ... and j <= 4. With z^K = C + iS and z^j = c + is:
//                        sum cos = sum Cc -+ sum Ss,  sum sin = sum Sc +- sum Cs
//   sums                 those four products: two multiply-adds per knot, the sum over samples included
//   adjoint              dp = sum_k t_k (g_sin cos - g_cos sin), the same products times combinations of gradients
//   statistic            both, with the comparison of the sums with the normal distribution in between; dp takes the
//                        place of p
//
// No chain of products is longer than 3 + knots / 8, so the error of knot k is at most (5 + k / 8) times that of an
// evaluation, plus as many roundings. Lanes are slices. A thread owns slices of a view and runs through their samples
// in order. It sums kSegment samples in fp32 (fp64) and adds these sums in fp64, so there are no atomics, and the bits
// are the same at any number of threads.
// Cost: about 120 operations (fp32) per projection for 17 knots, in the sums and in the adjoint. Both read p once, and
// the adjoint writes dp once; in the statistic p comes from memory once. Derivation and measurements:
// docs/design/sigreg.md
#include "../dtypes.h"
#include "../integers.h"
#include "../memory.h"
#include "../threads.h"
#include "../variant.h"
#include "centre.h"
#include "circle.h"
#include "kernels.h"
#include <math.h>

namespace {

using sslkernels::Centred;
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

// Sums the products over the samples of one vector of slices. `segment` is room for those of a segment.
template <class T>
void add_samples(const Characteristic &x, const T *p, int64_t count, const T *turns, double *totals,
                 Vector<T> *segment) {
    const int64_t centres = centres_of(x.knots), products = products_of(x.knots);
    memset(totals, 0, products * kLanes<T> * sizeof(double));
    for (int64_t start = 0; start < x.n; start += kSegment) {
        for (int64_t k = 0; k < products; ++k) segment[k] = all<T>(0);
        const int64_t end = least(start + kSegment, x.n);
        int64_t i = start;
        for (; i + kRows <= end; i += kRows) {
            Vector<T> rows[kRows];
            for (int r = 0; r < kRows; ++r) rows[r] = load_some<T>(p + (i + r) * x.slices, count);
            add_rows<T, kRows>(rows, turns, centres, segment);
        }
        for (; i < end; ++i) {
            const Vector<T> last = load_some<T>(p + i * x.slices, count);
            add_rows<T, 1>(&last, turns, centres, segment);
        }
        for (int64_t k = 0; k < products; ++k)
            for (int l = 0; l < kLanes<T>; ++l) totals[k * kLanes<T> + l] += double(segment[k][l]);
    }
}

// Calls f(knot, lane, sum of cosines, sum of sines) for the products that `add_samples` summed.
template <class T, class F> void each_sum(const Characteristic &x, const double *totals, F f) {
    constexpr int64_t L = kLanes<T>;
    auto alone = [&](int64_t knot, int64_t c, int64_t s) {
        if (knot >= x.knots) return;
        for (int64_t l = 0; l < L; ++l) f(knot, l, totals[c * L + l], totals[s * L + l]);
    };
    auto pair = [&](int64_t knot, int64_t at, int side) { // of cc, ss, sc and cs; side says where the centre is
        if (knot >= x.knots) return;
        const double *cc = totals + at * L, *ss = cc + L, *sc = ss + L, *cs = sc + L;
        for (int64_t l = 0; l < L; ++l) f(knot, l, cc[l] - side * ss[l], sc[l] + side * cs[l]);
    };
    for (int64_t l = 0; l < L; ++l) f(0, l, double(x.n), 0.0);
    for (int64_t j = 1; j <= kNear; ++j) alone(j, kPerNear * (j - 1), kPerNear * (j - 1) + 1);
    for (int64_t m = 1; m <= centres_of(x.knots); ++m) {
        alone(kApart * m, centre_at(m), centre_at(m) + 1);
        for (int64_t j = 1; j <= kNear; ++j) {
            pair(kApart * m + j, pair_at(m, j), 1);
            if (j < kNear) pair(kApart * m - j, pair_at(m, j), -1); // the centre below has the last
        }
    }
}

// Combines the gradients of one vector of sums, grad(knot, 0) of cosines and grad(knot, 1) of sines, into the weights
// of the products.
template <class T, class F> void weigh(const Characteristic &x, F grad, Vector<T> *weights) {
    // The weights of cos(t_k p) and sin(t_k p), which are zero beyond the last knot.
    auto for_cosine = [&](int64_t k) { return k < x.knots ? grad(k, 1) * T(double(k) * x.step) : all<T>(0); };
    auto for_sine = [&](int64_t k) { return k < x.knots ? grad(k, 0) * T(-double(k) * x.step) : all<T>(0); };
    for (int64_t j = 1; j <= kNear; ++j) {
        weights[kPerNear * (j - 1)] = for_cosine(j);
        weights[kPerNear * (j - 1) + 1] = for_sine(j);
    }
    for (int64_t m = 1; m <= centres_of(x.knots); ++m) {
        const int64_t centre = kApart * m;
        weights[centre_at(m)] = for_cosine(centre), weights[centre_at(m) + 1] = for_sine(centre);
        for (int64_t j = 1; j <= kNear; ++j) {
            const Vector<T> zero = all<T>(0), c = for_cosine(centre + j), s = for_sine(centre + j);
            const Vector<T> c_below = j < kNear ? for_cosine(centre - j) : zero; // the centre below has the last
            const Vector<T> s_below = j < kNear ? for_sine(centre - j) : zero;
            Vector<T> *pair = weights + pair_at(m, j);
            pair[0] = c + c_below, pair[1] = c_below - c, pair[2] = s + s_below, pair[3] = s - s_below;
        }
    }
}

// Writes dp, which may be p, for the samples of one vector of slices.
template <class T>
void pull(const Characteristic &x, const T *p, int64_t count, const T *turns, const Vector<T> *weights, T *dp) {
    const int64_t centres = centres_of(x.knots);
    for (int64_t i = 0; i < x.n; ++i) {
        const Vector<T> at = load_some<T>(p + i * x.slices, count);
        store_some(dp + i * x.slices, weighted<T>(at, turns, centres, weights), count);
    }
}

template <class T> bool sums_typed(const Characteristic &x, T *out) {
    const T turns[3] = {T(x.turns[0]), T(x.turns[1]), T(x.turns[2])};
    const int64_t products = products_of(x.knots), bytes = products * kLanes<T> * int64_t(sizeof(T) + sizeof(double));
    return each_vector<T>(x, bytes, [&](int64_t view, int64_t first, int64_t count, char *room) {
        double *totals = reinterpret_cast<double *>(room);
        Vector<T> *segment = reinterpret_cast<Vector<T> *>(totals + products * kLanes<T>);
        add_samples<T>(x, static_cast<const T *>(x.p) + view * x.n * x.slices + first, count, turns, totals, segment);
        T *cosines = out + view * 2 * x.knots * x.slices + first, *sines = cosines + x.knots * x.slices;
        each_sum<T>(x, totals, [&](int64_t knot, int64_t lane, double cosine, double sine) {
            if (lane >= count) return;
            cosines[knot * x.slices + lane] = T(cosine);
            sines[knot * x.slices + lane] = T(sine);
        });
    });
}

template <class T> bool adjoint_typed(const Characteristic &x, const T *grad, T *dp) {
    const T turns[3] = {T(x.turns[0]), T(x.turns[1]), T(x.turns[2])};
    const int64_t bytes = products_of(x.knots) * int64_t(sizeof(Vector<T>));
    return each_vector<T>(x, bytes, [&](int64_t view, int64_t first, int64_t count, char *room) {
        Vector<T> *weights = reinterpret_cast<Vector<T> *>(room);
        const T *of_cosines = grad + view * 2 * x.knots * x.slices + first;
        auto at = [&](int64_t k, int64_t sine) {
            return load_some<T>(of_cosines + (sine * x.knots + k) * x.slices, count);
        };
        weigh<T>(x, at, weights);
        const int64_t offset = view * x.n * x.slices + first;
        pull<T>(x, static_cast<const T *>(x.p) + offset, count, turns, weights, dp + offset);
    });
}

// With phi = sums / n the value is the mean over views and slices of n sum_k w_k |phi_k - e^(-t_k^2 / 2)|^2, and its
// gradient for the sums 2 w_k (phi_k - e^(-t_k^2 / 2)) / (views * slices).
template <class T> bool statistic_typed(const Characteristic &x, double scale, T *dp, double *value) {
    const T turns[3] = {T(x.turns[0]), T(x.turns[1]), T(x.turns[2])};
    constexpr int64_t L = kLanes<T>;
    const int64_t products = products_of(x.knots), across = (x.slices + L - 1) / L;
    const double share = 1.0 / (double(x.views) * double(x.slices));
    Memory memory((x.views * across + 2 * x.knots + 24) * int64_t(sizeof(double)));
    if (!memory.data) return false;
    double *parts = reinterpret_cast<double *>(memory.take(x.views * across * int64_t(sizeof(double))));
    double *normal = reinterpret_cast<double *>(memory.take(x.knots * int64_t(sizeof(double))));
    double *widths = reinterpret_cast<double *>(memory.take(x.knots * int64_t(sizeof(double))));
    for (int64_t k = 0; k < x.knots; ++k) {
        const double t = double(k) * x.step;
        normal[k] = exp(-t * t / 2);
        widths[k] = (k == 0 || k == x.knots - 1 ? 1 : 2) * x.step * normal[k]; // the integrand is even in t
    }
    const int64_t bytes =
        (products * L + 2 * x.knots * L) * int64_t(sizeof(T)) + products * L * int64_t(sizeof(double));
    const bool done = each_vector<T>(x, bytes, [&](int64_t view, int64_t first, int64_t count, char *room) {
        double *totals = reinterpret_cast<double *>(room), part = 0;
        Vector<T> *segment = reinterpret_cast<Vector<T> *>(totals + products * L), *slopes = segment + products;
        const int64_t offset = view * x.n * x.slices + first;
        const T *p = static_cast<const T *>(x.p) + offset;
        add_samples<T>(x, p, count, turns, totals, segment);
        each_sum<T>(x, totals, [&](int64_t knot, int64_t lane, double cosine, double sine) {
            const double c = cosine / double(x.n) - normal[knot], s = sine / double(x.n);
            if (lane < count) part += widths[knot] * (c * c + s * s);
            slopes[2 * knot][lane] = T(2 * widths[knot] * c * share * scale);
            slopes[2 * knot + 1][lane] = T(2 * widths[knot] * s * share * scale);
        });
        parts[view * across + first / L] = part;
        if (!dp) return;
        weigh<T>(x, [&](int64_t k, int64_t sine) { return slopes[2 * k + sine]; }, segment);
        pull<T>(x, p, count, turns, segment, dp + offset);
    });
    double total = 0;
    for (int64_t job = 0; job < x.views * across; ++job) total += parts[job];
    *value = double(x.n) * share * total;
    return done;
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
bool statistic(const Characteristic &x, double scale, void *dp, double *value) {
    return x.dtype == sslkernels::kFloat64 ? statistic_typed<double>(x, scale, static_cast<double *>(dp), value)
                                           : statistic_typed<float>(x, scale, static_cast<float *>(dp), value);
}
bool distance(const Centred &x, double scale, void *dz, double *value) {
    bool done = true;
    with_type(x.dtype, [&](auto z) { done = distance_typed<decltype(z)>(x, scale, dz, value); });
    return done;
}

} // namespace

namespace sslkernels {
template <> const SigregKernels &kernels_for<SigregKernels, SSLK_VARIANT>() {
    static const SigregKernels table = {sums, adjoint, statistic, distance};
    return table;
}
} // namespace sslkernels
