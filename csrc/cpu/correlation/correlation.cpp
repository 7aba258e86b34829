// SPDX-License-Identifier: Apache-2.0
// Computes correlations of columns with the smaller of two matrices, because |a^T b|^2 = <a a^T, b b^T>.
//
//   a = (z - mean) * scale per column, which is never stored whole
//   samples    K = a a^T, N x N per view     da = K b          where N < D, in fp32 (fp64)
//   features   C = a^T b, D x D              da = b off(C)^T   where N >= D, a and b rounded to the product's dtype
//
// Cost of two views, forward and backward: 6*N*D*min(N, D) operations and three passes over the rows, one of which
// writes. Derivation and measurements: docs/design/correlation.md
#include "../bfloat16.h"
#include "../dtypes.h"
#include "../variant.h"
#include "kernels.h"
#include "loss.h"

namespace {

// Calls f with the policy and the element for rows of `dtype` whose products run in `compute`.
template <class F> bool with_policy(int dtype, int compute, F f) {
    const bool narrow_product = compute == sslkernels::kBFloat16;
    switch (dtype) {
    case sslkernels::kFloat64: return f(Chosen<Wide<double>, double>());
    case sslkernels::kBFloat16:
        return narrow_product ? f(Chosen<BFloat16Policy, bf16>()) : f(Chosen<Wide<float>, bf16>());
    case sslkernels::kFloat16: return narrow_product ? f(Chosen<BFloat16Policy, f16>()) : f(Chosen<Wide<float>, f16>());
    default: return narrow_product ? f(Chosen<BFloat16Policy, float>()) : f(Chosen<Wide<float>, float>());
    }
}

bool moments(int dtype, Rows z0, Rows z1, int64_t d, bool centre, void *mean, double *squares, double *products,
             double *gap, int threads) {
    const Rows views[2] = {z0, z1};
    bool done = false;
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        using Acc = typename Accumulator<In>::type;
        done = moments_typed<In, Acc>(views, z1.data ? 2 : 1, d, centre, static_cast<Acc *>(mean), squares, products,
                                      gap, threads);
    });
    return done;
}
bool samples(int dtype, Columns a, int64_t first, int64_t count, void *out, int threads) {
    bool done = false;
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        done = samples_typed<typename Accumulator<In>::type, In>(a, first, count, out, threads);
    });
    return done;
}
bool features(int dtype, int compute, Columns a, Columns b, bool itself, void *out, int threads) {
    return with_policy(dtype, compute, [&](auto chosen) {
        using C = decltype(chosen);
        return features_typed<typename C::Policy, typename C::Element>(a, b, itself, out, threads);
    });
}
bool energies(int dtype, const void *x, const void *y, int64_t n, int64_t m, double *rows, double *columns,
              double *total, int threads) {
    auto run = [&](auto acc) {
        using Acc = decltype(acc);
        return energies_typed<Acc>(static_cast<const Acc *>(x), static_cast<const Acc *>(y), n, m, rows, columns, total,
                                   threads);
    };
    return dtype == sslkernels::kFloat64 ? run(double()) : run(float());
}
bool backward(const CorrelationGrad &g) {
    return with_policy(g.dtype, g.compute, [&](auto chosen) {
        using C = decltype(chosen);
        return gradient_typed<typename C::Policy, typename C::Element>(g);
    });
}
bool loss(const CorrelationLoss &l) {
    return with_policy(l.dtype, l.compute, [&](auto chosen) {
        using C = decltype(chosen);
        return loss_typed<typename C::Policy, typename C::Element>(l);
    });
}

} // namespace

namespace sslkernels {
template <> const CorrelationKernels &kernels_for<CorrelationKernels, SSLK_VARIANT>() {
    static const CorrelationKernels table = {moments, samples, features, energies, backward, loss};
    return table;
}
} // namespace sslkernels
