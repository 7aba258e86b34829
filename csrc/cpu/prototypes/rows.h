// SPDX-License-Identifier: Apache-2.0
// Walks the rows of a table: softmaxes, and cross-entropies with their gradients. A row is short enough for the L2
// cache, so that it comes from memory once, however often it is read.
#pragma once
#include "../dtypes.h"
#include "../integers.h"
#include "../threads.h"
#include "../vector.h"
#include "products.h"

namespace {

using sslkernels::Gradients;
using sslkernels::Table;
using sslkernels::Targets;

template <class T> constexpr T kLowestLogit = sizeof(T) == 4 ? T(-0x1.fffffep127) : T(-0x1.fffffffffffffp1023);

// Reads the last numbers of a row, and `fill` beyond.
template <class T> inline Vector<T> load_some(const T *p, int64_t count, T fill) {
    if (count >= kLanes<T>) return load(p);
    T some[kLanes<T>];
    for (int64_t i = 0; i < kLanes<T>; ++i) some[i] = i < count ? p[i] : fill;
    return load(some);
}

// Adds up in lanes within a stretch of a row, and in fp64 from stretch to stretch.
constexpr int64_t kStretch = 2048;

template <class T> struct Logits { // of one row
    const T *products, *bias;
    int64_t count;
    T scale;

    Vector<T> at(int64_t k) const {
        Vector<T> x = load_some(products + k, count - k, T(0)) * scale;
        if (bias) x += load_some(bias + k, count - k, T(0));
        if (count - k < kLanes<T>) // nothing stands beyond the end
            for (int64_t i = count - k; i < kLanes<T>; ++i) x[i] = -T(INFINITY);
        return x;
    }
    T top() const {
        Vector<T> most = all(kLowestLogit<T>);
        for (int64_t k = 0; k < count; k += kLanes<T>) most = larger<T>(most, at(k));
        return largest<T>(most);
    }
    // Writes e^(logit - top) and returns the sum.
    double exponentials(T top, T *out) const {
        double total = 0;
        for (int64_t first = 0; first < count; first += kStretch) {
            Vector<T> part{};
            for (int64_t k = first; k < least(first + kStretch, count); k += kLanes<T>) {
                const Vector<T> e = expv(at(k) - top);
                part += e;
                store_some(out + k, e, count - k);
            }
            total += double(sum<T>(part));
        }
        return total;
    }
};

template <class T> void soften_typed(const Table &t, const void *bias) {
    T *table = static_cast<T *>(t.products);
#pragma omp parallel for schedule(static) num_threads(threads_for(t.rows *t.prototypes, t.threads))
    for (int64_t i = 0; i < t.rows; ++i) {
        T *row = table + i * t.prototypes;
        const Logits<T> logits{row, static_cast<const T *>(bias), t.prototypes, T(t.scale)};
        const double total = logits.exponentials(logits.top(), row);
        const T inverse = total == 0 ? T(0) : T(1 / total);
        for (int64_t k = 0; k < t.prototypes; ++k) row[k] *= inverse;
    }
}

// With q the target of a row, the sum of its shares of softmaxes; x its logits, and p their softmax:
//   loss     sum q (top - x)  +  sum q * log sum e^(x - top)       no term is negative
//   slope    sum (p sum q - q) x / scale                           of the loss by the scale
//   product  scale (p sum q - q)
template <class T> struct Compared {
    const Targets &targets;
    int64_t count, i;

    Vector<T> target(int64_t k) const {
        Vector<T> q{};
        for (int64_t t = 0; t < targets.each; ++t) {
            const int64_t place = i * targets.each + t, from = targets.index[place];
            if (from < 0) continue;
            const T *p = static_cast<const T *>(targets.softmax) + from * count + k;
            q += load_some(p, count - k, T(0)) * static_cast<const T *>(targets.share)[place];
        }
        return q;
    }
    bool counts() const {
        bool any = false;
        for (int64_t t = 0; t < targets.each; ++t)
            any |= static_cast<const T *>(targets.share)[i * targets.each + t] != 0;
        return any;
    }
    // Returns the loss and the slope. `e` is where exponentials may stay until the gradient takes their place.
    void operator()(T *row, T scale, bool gradient, T *loss, T *slope) const {
        *loss = *slope = 0;
        if (!counts()) { // whatever such a row holds
            if (gradient) memset(row, 0, count * sizeof(T));
            return;
        }
        const Logits<T> logits{row, nullptr, count, scale};
        const T top = logits.top();
        double total = 0, mean = 0, apart = 0, share = 0;
        for (int64_t first = 0; first < count; first += kStretch) {
            Vector<T> totals{}, means{}, aparts{}, shares{};
            for (int64_t k = first; k < least(first + kStretch, count); k += kLanes<T>) {
                Vector<T> below = logits.at(k) - top;
                const Vector<T> e = expv(below), q = target(k);
                for (int64_t n = count - k; n < kLanes<T>; ++n) below[n] = 0; // not 0 times infinity
                totals += e, means += e * below, aparts -= q * below, shares += q;
                if (gradient) store_some(row + k, e, count - k);
            }
            total += double(sum<T>(totals)), mean += double(sum<T>(means));
            apart += double(sum<T>(aparts)), share += double(sum<T>(shares));
        }
        *loss = T(apart + share * log(total));
        *slope = T((share * mean / total + apart) / double(scale));
        if (!gradient) return;
        const T factor = T(scale * share / total);
        for (int64_t k = 0; k < count; k += kLanes<T>)
            store_some(row + k, load_some(row + k, count - k, T(0)) * factor - target(k) * scale, count - k);
    }
};

template <class T>
void compare_typed(const Table &t, const Targets &to, Gradients gradients, void *losses, void *slopes) {
    T *table = static_cast<T *>(t.products);
#pragma omp parallel for schedule(static) num_threads(threads_for(t.rows *t.prototypes, t.threads))
    for (int64_t i = 0; i < t.rows; ++i) {
        const Compared<T> compared{to, t.prototypes, i};
        T *row = table + i * t.prototypes;
        compared(row, T(t.scale), gradients != sslkernels::kNone, static_cast<T *>(losses) + i,
                 static_cast<T *>(slopes) + i);
        if constexpr (sizeof(T) == 4)
            if (gradients == sslkernels::kRounded) round_in_place(row, t.prototypes);
    }
}

} // namespace
