// SPDX-License-Identifier: Apache-2.0
// What one instruction set exports, and the arguments its kernels take. Strides count elements.
#pragma once
#include <stdint.h>

namespace sslkernels {

enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

struct Rows {
    const void *data;
    int64_t stride, count;
};

struct Similarity { // S = scale * X * Y^T
    int dtype;
    Rows x, y;
    bool itself; // y is x: each pair counts on both sides
    int64_t d;
    double scale;
    const int64_t *exclude; // (x.count, excluded), -1 for none
    int64_t excluded;
    void *kept; // room for exponentials that the forward leaves for the backward, or null
    int64_t kept_bytes;
    int threads;
};

struct SimilarityGrad { // of sum(rows_grad * rows) + sum(columns_grad * columns); lse and gradients in fp32 (fp64)
    const void *rows, *rows_grad, *columns, *columns_grad;
    void *dx, *dy, *dscale;
};

struct Kernels {
    const char *name;
    bool (*similarity_forward)(const Similarity &, void *rows, void *columns, void *attended);
    bool (*similarity_backward)(const Similarity &, const SimilarityGrad &);
    void (*unit_rows_forward)(int dtype, Rows z, int64_t d, int out_dtype, void *unit, void *norms, int threads);
    void (*unit_rows_backward)(int dtype, const void *unit, const void *norms, Rows grad, int64_t d, int out_dtype,
                               void *dz, int threads);
    void (*row_dot_forward)(int dtype, Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads);
    void (*scale_rows)(int dtype, Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift,
                       int64_t n, void *out, int threads);
};

} // namespace sslkernels
