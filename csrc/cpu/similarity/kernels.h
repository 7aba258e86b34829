// SPDX-License-Identifier: Apache-2.0
// Declares the similarity kernels and their arguments. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Similarity { // S = scale * X * Y^T
    int dtype;
    Rows x, y;
    bool itself; // y is x, and each pair counts on both sides
    int64_t d;
    double scale;
    const int64_t *exclude; // (x.count, excluded): keys that a row leaves out; -1 for none
    int64_t excluded;
    void *kept; // null, or room where the forward leaves its exponentials for the backward
    int64_t kept_bytes;
    int threads;
};

// The gradient of sum(rows_grad * rows) + sum(columns_grad * columns), where rows and columns are the log-sum-exps.
// They and their gradients are fp32 (fp64).
struct SimilarityGrad {
    const void *rows, *rows_grad, *columns, *columns_grad;
    void *dx, *dy, *dscale;
};

struct SimilarityKernels { // they return false where there is no memory for their scratch
    bool (*forward)(const Similarity &, void *rows, void *columns, void *attended);
    bool (*backward)(const Similarity &, const SimilarityGrad &);
};

} // namespace sslkernels
