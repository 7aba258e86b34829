// SPDX-License-Identifier: Apache-2.0
// Declares the row-wise kernels and their arguments. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct RowCosine { // the cosine of x_i and y_i for every i
    int dtype;
    Rows x, y;
    int64_t d;
    double eps; // smaller norms count as this
    int threads;
};

struct RowCosineGrad { // in fp32 (fp64): cosines (n,) and norms (2, n) of x and of y, not clamped
    const void *cosines, *norms;
    const void *grad;
    int64_t grad_stride; // 0: one number for all rows
    void *dx, *dy;       // null where not wanted
};

struct RowCosineLoss { // the sum of share (offset - weight cosine) over all rows, and its gradient, all in fp32 (fp64)
    double offset, weight, share;
    void *value;
    void *dx, *dy; // null where not wanted
};

struct RowKernels {
    void (*unit_forward)(int dtype, Rows z, int64_t d, int out_dtype, void *unit, void *norms, int threads);
    void (*unit_backward)(int dtype, const void *unit, const void *norms, Rows grad, int64_t d, int out_dtype, void *dz,
                          int threads);
    void (*dot_forward)(int dtype, Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads);
    void (*scale)(int dtype, Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift,
                  int64_t n, void *out, int threads);
    void (*cosine_forward)(const RowCosine &, void *cosines, void *norms);
    void (*cosine_backward)(const RowCosine &, const RowCosineGrad &);
    void (*cosine_loss)(const RowCosine &, const RowCosineLoss &);
};

} // namespace sslkernels
