// SPDX-License-Identifier: Apache-2.0
// Compares softmaxes over prototypes without a table of logits (compare.h), and spreads rows over prototypes evenly on
// a table of products (columns.h). torch.mm writes that table, but for what bfloat16 multiplies into fp32 (products.h).
//
//   compare   (8*N + 4*M)*K*D operations, less 2*N*K*D and 2*M*K*D where logits are kept
//   multiply  2*N*K*D operations
//   Sinkhorn  reads a table once for each step: one exponential for each logit, and an eighth more in the first
//
// Derivation and measurements: docs/design/prototypes.md
#include "../variant.h"
#include "columns.h"
#include "compare.h"

namespace {

template <class F> void with_table(int dtype, F f) { dtype == sslkernels::kFloat64 ? f(double()) : f(float()); }

bool multiply(const Table &t, const Rows &rows, const Rows &weight, int64_t d) {
    return multiply_typed<BFloat16Policy, bf16>(t, rows, weight, d);
}
bool compare(const Comparison &c, const ComparisonOut &out) {
    return with_policy(c.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        return compare_typed<typename C::Policy, typename C::Element>(c, out);
    });
}
void columns(const Table &t, const void *weights, void *peaks, void *totals) {
    with_table(t.dtype, [&](auto x) { columns_typed<decltype(x)>(t, weights, peaks, totals); });
}
bool spread(const Table &t, const Spread &s, void *mass) {
    bool done = false;
    with_table(t.dtype, [&](auto x) { done = spread_typed<decltype(x)>(t, s, mass); });
    return done;
}

} // namespace

namespace sslkernels {
template <> const PrototypeKernels &kernels_for<PrototypeKernels, SSLK_VARIANT>() {
    static const PrototypeKernels table = {multiply, compare, columns, spread};
    return table;
}
} // namespace sslkernels
