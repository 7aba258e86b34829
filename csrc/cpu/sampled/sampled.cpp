// SPDX-License-Identifier: Apache-2.0
// Computes products of rows of x with rows of y that an index names, and their gradients, without a buffer of the rows.
//
//   out_ik = s <x_i, y_j>, or -inf where index[i, k] = -1        j = index[i, k]
//   dx_i   = s sum_k g_ik y_j        ds = sum_ik g_ik <x_i, y_j>
//   dy_j   = s sum of g_ik x_i over the (i, k) with index[i, k] = j
//
// Cost: 2*N*K*D operations for the products and for each of dx and dy. What counts is where the N*K rows are read from:
// each comes from a cache of its own size, and no number is stored in between. An index outside [-1, M) is not read; it
// counts as a row of NaN for the products and for dx. Measurements: docs/design/sampled.md
#include "../variant.h"
#include "grouped.h"
#include "kernels.h"
#include "products.h"

namespace {

void products(const Sampled &s, void *out) {
    with_type(s.dtype, [&](auto in) { products_typed<decltype(in)>(s, out); });
}
bool gradient_of_x(const Sampled &s, const SampledGrad &of) {
    bool done = true;
    with_type(s.dtype, [&](auto in) { done = gradient_of_x_typed<decltype(in)>(s, of); });
    return done;
}
bool gradient_of_y(const Sampled &s, const SampledGrad &of) {
    bool done = true;
    with_type(s.dtype, [&](auto in) { done = gradient_of_y_typed<decltype(in)>(s, of); });
    return done;
}

} // namespace

namespace sslkernels {
template <> const SampledKernels &kernels_for<SampledKernels, SSLK_VARIANT>() {
    static const SampledKernels table = {products, gradient_of_x, gradient_of_y};
    return table;
}
} // namespace sslkernels
