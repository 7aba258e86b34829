// SPDX-License-Identifier: Apache-2.0
// Compares softmaxes over prototypes, and spreads rows over prototypes evenly, on tables of products. torch.mm writes
// them, and multiplies their gradients; but what bfloat16 multiplies into fp32 is written here. See
// sslkernels/ops/prototypes/cpu.py.
//
//   multiply  2*N*K*D operations
//   compare   reads and writes a row once, and the rows of its targets: one exponential for each logit
//   Sinkhorn  reads a table once for each step: one exponential for each logit, and an eighth more in the first
//
// Derivation and measurements: docs/design/prototypes.md
#include "../variant.h"
#include "columns.h"

namespace {

template <class F> void with_table(int dtype, F f) { dtype == sslkernels::kFloat64 ? f(double()) : f(float()); }

bool multiply(const Table &t, const Rows &rows, const Rows &weight, int64_t d) {
    return multiply_typed<BFloat16Policy, bf16>(t, rows, weight, d);
}
void soften(const Table &t, const void *bias) {
    with_table(t.dtype, [&](auto x) { soften_typed<decltype(x)>(t, bias); });
}
void compare(const Table &t, const Targets &to, Gradients gradients, void *losses, void *slopes) {
    with_table(t.dtype, [&](auto x) { compare_typed<decltype(x)>(t, to, gradients, losses, slopes); });
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
    static const PrototypeKernels table = {multiply, soften, compare, columns, spread};
    return table;
}
} // namespace sslkernels
