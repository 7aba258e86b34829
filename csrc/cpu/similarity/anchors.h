// SPDX-License-Identifier: Apache-2.0
// Treats anchors one by one: turns their log-sum-exps into the loss and its weights, and what moved them into the
// gradient of the rows as they were given.
//   loss_i = softplus(lse_i - p_i),  w_i = share * sigmoid(lse_i - p_i),  p_i = scale * <x_i, y_(i + shift)>
//   g_i    = scale * (moved_i - pull_i * partner_i),   dz_i = (g_i - x_i <x_i, g_i>) / max(|z_i|, 1e-12)
// A pass reads N*D numbers for the first, and 3*N*D for the second, which writes N*D.
#pragma once
#include "../dot.h"
#include "../integers.h"
#include "../threads.h"
#include "blocks.h"
#include "kernels.h"
#include <math.h>

namespace {

using sslkernels::Finish;
using sslkernels::Positives;
using sslkernels::Weights;

// Sums of many rows are made of so many parts, so that their order does not depend on the threads.
constexpr int kParts = 64;

template <class Acc> struct Share { // of one direction of one anchor
    Acc loss, weight;
};
template <class Acc> inline Share<Acc> share_of(Acc lse, Acc logit) {
    // An infinite positive would pass for a perfect match: the loss is NaN. Beside it only infinite negatives count.
    const Acc gap = lse - (logit == Acc(INFINITY) ? Acc(NAN) : logit);
    const Acc within = lse - (logit > kLargest<Acc> ? kLargest<Acc> : logit);
    const Acc size = gap < 0 ? -gap : gap;
    const Acc loss = gap != gap ? gap : (gap > 0 ? gap : Acc(0)) + (size > Acc(40) ? exp(-size) : log1p(exp(-size)));
    return {loss, Acc(1) / (Acc(1) + exp(-within))};
}

template <class In, class Acc>
void weigh_typed(const Positives &of, const void *rows, const void *columns, double share, const Weights &weights,
                 double *value, double *of_scale) {
    const int64_t n = of.x.count;
    double losses[kParts] = {}, pulled[kParts] = {};
    const int directions = columns ? 2 : 1;
    const Acc each = Acc(share / directions);
#pragma omp parallel for schedule(static) num_threads(threads_for(n *of.d, of.threads))
    for (int part = 0; part < kParts; ++part)
        for (int64_t i = n * part / kParts; i < n * (part + 1) / kParts; ++i) {
            const Acc product = dot<Acc>(row<In>(of.x, i), row<In>(of.y, wrap(i + of.shift, of.y.count)), of.d);
            const Acc logit = Acc(of.scale) * product;
            Acc pull = 0;
            for (int k = 0; k < directions; ++k) {
                const Share<Acc> own = share_of(static_cast<const Acc *>(k ? columns : rows)[i], logit);
                // The weight comes first: the sum of large losses may overflow where their mean does not.
                losses[part] += share / directions * double(own.loss);
                const Acc weight = each * own.weight;
                if (weights.pull) static_cast<Acc *>(k ? weights.columns : weights.rows)[i] = weight;
                pull += weight;
            }
            if (!weights.pull) continue;
            pull += (logit > 0 ? logit : Acc(0)) * 0; // NaN where the positive is infinite
            if (logit != logit) pull = logit;
            static_cast<Acc *>(weights.pull)[i] = pull;
            pulled[part] += double(pull) * double(product);
        }
    *value = 0;
    if (of_scale) *of_scale = 0;
    for (int part = 0; part < kParts; ++part) {
        *value += losses[part];
        if (of_scale) *of_scale += pulled[part];
    }
}

template <class In, class Acc> void finish_typed(const Finish &f, void *out, double *of_scale) {
    const int64_t n = f.x.count, d = f.d;
    const Acc *moved = static_cast<const Acc *>(f.moved), *pull = static_cast<const Acc *>(f.pull);
    const Acc *norms = static_cast<const Acc *>(f.norms);
    const Acc scale = Acc(f.scale), least_norm = Acc(1e-12);
    double parts[kParts] = {};
#pragma omp parallel for schedule(static) num_threads(threads_for(n *d, f.threads))
    for (int part = 0; part < kParts; ++part)
        for (int64_t i = n * part / kParts; i < n * (part + 1) / kParts; ++i) {
            const In *x = row<In>(f.x, i);
            const Acc *m = moved + i * f.ld;
            const Acc along = dot<Acc>(x, m, d);
            parts[part] += double(along);
            if (!out) continue;
            Acc *to = static_cast<Acc *>(out) + i * d;
            const In *partner = pull ? row<In>(f.partners, i) : x;
            const Acc a = pull ? pull[i] : Acc(0);
            if (pull)
                for (int64_t k = 0; k < d; ++k) to[k] = scale * (m[k] - a * widen<Acc>(partner[k]));
            else
                for (int64_t k = 0; k < d; ++k) to[k] = scale * m[k];
            if (!norms) continue;
            const Acc project = norms[i] > least_norm ? dot<Acc>(x, to, d) : Acc(0);
            const Acc divisor = norms[i] < least_norm ? least_norm : norms[i];
            for (int64_t k = 0; k < d; ++k) to[k] = (to[k] - widen<Acc>(x[k]) * project) / divisor;
        }
    *of_scale = 0;
    for (double part : parts) *of_scale += part;
}

} // namespace
