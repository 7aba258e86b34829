// SPDX-License-Identifier: Apache-2.0
// Compares softmaxes over prototypes, and spreads rows over prototypes evenly, on tables of products that a matrix
// product wrote. The products and their gradients are left to it; see sslkernels/ops/prototypes/cpu.py.
//
//   compare   reads and writes a row once, and the rows of its targets: one exponential for each logit
//   Sinkhorn  reads a table once for each step: one exponential for each logit, and an eighth more in the first
//
// Derivation and measurements: docs/design/prototypes.md
#include "../variant.h"
#include "columns.h"

namespace {

template <class F> void with_table(int dtype, F f) { dtype == sslkernels::kFloat64 ? f(double()) : f(float()); }

void soften(const Table &t, const void *bias) {
    with_table(t.dtype, [&](auto x) { soften_typed<decltype(x)>(t, bias); });
}
void compare(const Table &t, const Targets &to, bool gradient, void *losses, void *slopes) {
    with_table(t.dtype, [&](auto x) { compare_typed<decltype(x)>(t, to, gradient, losses, slopes); });
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
    static const PrototypeKernels table = {soften, compare, columns, spread};
    return table;
}
} // namespace sslkernels
