// SPDX-License-Identifier: Apache-2.0
// Makes unit rows, dot products and cosines of matching rows, and their gradients. Each is one pass over the rows,
// bound by memory. Derivation and measurements: docs/design/similarity.md
#include "../dtypes.h"
#include "../variant.h"
#include "cosine.h"
#include "kernels.h"
#include "unit.h"

namespace {

void unit_forward(int dtype, Rows z, int64_t d, int out_dtype, void *unit, void *norms, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        with_type(out_dtype, [&](auto out) {
            unit_rows_forward_typed<In, decltype(out), typename Accumulator<In>::type>(z, d, unit, norms, threads);
        });
    });
}
void unit_backward(int dtype, const void *unit, const void *norms, Rows grad, int64_t d, int out_dtype, void *dz,
                   int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        with_type(out_dtype, [&](auto out) {
            unit_rows_backward_typed<In, decltype(out), typename Accumulator<In>::type>(unit, norms, grad, d, dz,
                                                                                        threads);
        });
    });
}
void dot_forward(int dtype, Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        row_dot_typed<In, typename Accumulator<In>::type>(x, y, d, shift, out, threads);
    });
}
void scale(int dtype, Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift, int64_t n,
           void *out, int threads) {
    with_type(dtype, [&](auto in) {
        using In = decltype(in);
        scale_rows_typed<In, typename Accumulator<In>::type>(y, d, shift, grad, also, also_shift, n, out, threads);
    });
}
void cosine_forward(const RowCosine &p, void *cosines, void *norms) {
    with_type(p.dtype, [&](auto in) { row_cosine_forward_typed<decltype(in)>(p, cosines, norms); });
}
void cosine_backward(const RowCosine &p, const RowCosineGrad &grad) {
    with_type(p.dtype, [&](auto in) { row_cosine_backward_typed<decltype(in)>(p, grad); });
}
void cosine_loss(const RowCosine &p, const RowCosineLoss &loss) {
    with_type(p.dtype, [&](auto in) { row_cosine_loss_typed<decltype(in)>(p, loss); });
}

} // namespace

namespace sslkernels {
template <> const RowKernels &kernels_for<RowKernels, SSLK_VARIANT>() {
    static const RowKernels table = {unit_forward,   unit_backward,   dot_forward, scale,
                                     cosine_forward, cosine_backward, cosine_loss};
    return table;
}
} // namespace sslkernels
