// SPDX-License-Identifier: Apache-2.0
// Arguments of the similarity kernels, and their table. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

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

struct SimilarityKernels { // false: there is no memory for the scratch
    bool (*forward)(const Similarity &, void *rows, void *columns, void *attended);
    bool (*backward)(const Similarity &, const SimilarityGrad &);
};

} // namespace sslkernels
