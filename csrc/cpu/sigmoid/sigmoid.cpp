// SPDX-License-Identifier: Apache-2.0
// Sums softplus(U), U = s*X*Y^T + b, over rows without the matrix, and computes the gradient of weighted sums:
//
//   G = g_i * sigmoid(U),  dX = s*G*Y,  dY = s*G^T*X,  ds = sum G . (X*Y^T),  db = sum G
//
// A weight does not wait for a sum, as it does in a softmax. So where weights are known, as in a loss, one pass over
// the tiles gives value and gradient: 6*N*M*D operations, with no second product, and nothing of the size N*M is kept.
// Cost: 2*N*M*D operations for the sums, 4 to 6*N*M*D for the gradient, half of both for x with itself; O((N+M)*D)
// bytes. Blocks meet as in similarity/schedule.h, so that no two threads write one row, and the order of every sum
// depends on the thread count alone. Derivation and measurements: docs/design/sigmoid.md
#include "../bfloat16.h"
#include "../memory.h"
#include "../similarity/schedule.h"
#include "../threads.h"
#include "../variant.h"
#include "kernels.h"
#include "pass.h"

namespace {

using sslkernels::Logits;
using sslkernels::SigmoidGradients;

template <class P, class In> struct SigmoidCall {
    using Acc = typename P::Acc;
    const Logits &of;
    const int64_t n = of.x.count, m = of.y.count, d = of.d, ld = round_up(d, kLanes<Acc>);

    template <bool Sloped>
    bool pass(Meeting meeting, bool swap, const Side<Acc> &own, const Side<Acc> &oth, bool uniform, Slopes *total) {
        SigmoidPass<P, In, Sloped> job{};
        job.owners = swap ? of.y : of.x, job.others = swap ? of.x : of.y;
        job.d = d, job.ld = ld, job.scale = Acc(of.scale), job.bias = Acc(of.bias);
        job.own = own, job.oth = oth, job.uniform = uniform, job.itself = of.itself, job.paired = of.paired;
        job.features = own.moved || oth.moved;
        const Plan p = plan<P>(meeting, job.owners.count, job.others.count, d, of.threads);
        const int64_t each = round_up(Tiles<P, In>::bytes(d, job.features), 64);
        Memory memory((each + int64_t(sizeof(Slopes))) * p.threads + 64);
        if (!memory.data) return false;
        char *scratch = memory.take(each * p.threads);
        job.slopes = reinterpret_cast<Slopes *>(memory.take(p.threads * int64_t(sizeof(Slopes))));
        for (int t = 0; t < p.threads; ++t) job.slopes[t] = {0, 0};
        run(job, p.meeting, Blocks{job.owners.count, p.owner_block}, Blocks{job.others.count, p.other_block}, p.threads,
            scratch, each);
        for (int t = 0; total && t < p.threads; ++t)
            total->scale += job.slopes[t].scale, total->bias += job.slopes[t].bias;
        return true;
    }
    bool forward(Acc *out) {
        Memory memory(n * int64_t(sizeof(double)) + 64);
        if (!memory.data) return false;
        double *sums = reinterpret_cast<double *>(memory.take(n * int64_t(sizeof(double))));
        memset(sums, 0, n * sizeof(double));
        const Side<Acc> own{nullptr, sums, nullptr};
        const Meeting meeting = of.itself ? Meeting::kItself : Meeting::kOneSide;
        if (!pass<false>(meeting, false, own, of.itself ? own : Side<Acc>{}, false, nullptr)) return false;
        for (int64_t i = 0; i < n; ++i) out[i] = Acc(sums[i]);
        return true;
    }
    // Where rows have no weights of their own, each has the weight 1 and its sum is wanted, which `factor` scales
    // later.
    bool gradient(const Acc *weights, double factor, double *sums, const SigmoidGradients &out) {
        const bool slopes = out.dscale || out.dbias, needed = slopes || out.dx || out.dy;
        const bool swap = !sums && !out.dx && out.dy && !of.itself, both = sums || (out.dx && out.dy);
        const Meeting meeting = of.itself ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
        Memory memory(ld == d ? 64 : (n + m) * ld * int64_t(sizeof(Acc)) + 192);
        if (!memory.data) return false;
        auto moved = [&](void *to, int64_t rows) {
            if (!to) return static_cast<Acc *>(nullptr);
            Acc *at = ld == d ? static_cast<Acc *>(to) : reinterpret_cast<Acc *>(memory.take(rows * ld * sizeof(Acc)));
            memset(at, 0, rows * ld * sizeof(Acc));
            return at;
        };
        Acc *moved_x = moved(out.dx, n), *moved_y = of.itself ? nullptr : moved(out.dy, m);
        if (sums) memset(sums, 0, n * sizeof(double));
        Side<Acc> x{weights, sums, moved_x}, y{nullptr, nullptr, moved_y};
        if (of.itself) y = x;
        Slopes total{0, 0};
        const bool done = needed ? pass<true>(meeting, swap, swap ? y : x, swap ? x : y, !weights, &total)
                                 : pass<false>(meeting, swap, x, y, !weights, nullptr);
        if (!done) return false;
        scaled(moved_x, out.dx, n, factor * of.scale);
        if (!of.itself) scaled(moved_y, out.dy, m, factor * of.scale);
        if (out.dscale) *static_cast<Acc *>(out.dscale) = Acc(factor * total.scale);
        if (out.dbias) *static_cast<Acc *>(out.dbias) = Acc(factor * total.bias);
        return true;
    }
    void scaled(const Acc *moved, void *to, int64_t rows, double by) const {
        if (!to) return;
#pragma omp parallel for schedule(static) num_threads(threads_for(rows *d, of.threads))
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t k = 0; k < d; ++k) static_cast<Acc *>(to)[i * d + k] = moved[i * ld + k] * Acc(by);
    }
    bool loss(double share, Acc *value, const SigmoidGradients &out) {
        Memory memory(n * int64_t(sizeof(double)) + 64);
        if (!memory.data) return false;
        double *sums = reinterpret_cast<double *>(memory.take(n * int64_t(sizeof(double))));
        if (!gradient(nullptr, share, sums, out)) return false;
        double total = 0;
        for (int64_t i = 0; i < n; ++i) total += share * sums[i];
        *value = Acc(total);
        return true;
    }
};

bool forward(const Logits &of, void *sums) {
    return with_policy(of.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        SigmoidCall<typename C::Policy, typename C::Element> call{of};
        return call.forward(static_cast<typename C::Policy::Acc *>(sums));
    });
}
bool backward(const Logits &of, const void *weights, const SigmoidGradients &out) {
    return with_policy(of.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        SigmoidCall<typename C::Policy, typename C::Element> call{of};
        return call.gradient(static_cast<const typename C::Policy::Acc *>(weights), 1, nullptr, out);
    });
}
bool loss(const Logits &of, double share, void *value, const SigmoidGradients &out) {
    return with_policy(of.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        SigmoidCall<typename C::Policy, typename C::Element> call{of};
        return call.loss(share, static_cast<typename C::Policy::Acc *>(value), out);
    });
}

} // namespace

namespace sslkernels {
template <> const SigmoidKernels &kernels_for<SigmoidKernels, SSLK_VARIANT>() {
    static const SigmoidKernels table = {forward, backward, loss};
    return table;
}
} // namespace sslkernels
