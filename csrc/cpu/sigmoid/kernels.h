// SPDX-License-Identifier: Apache-2.0
// Declares the sigmoid kernels and their arguments. Strides count elements. Sums, weights and gradients are fp32 (fp64
// for fp64 rows).
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Logits { // U = scale * X * Y^T + bias
    int dtype;
    Rows x, y;
    bool itself; // y is x, and each pair counts on both sides
    bool paired; // row i of x belongs to row i of y: their logit has the other sign
    int64_t d;
    double scale, bias;
    int threads;
};

struct SigmoidGradients { // null where not wanted; dx and dy hold rows of d numbers
    void *dx, *dy, *dscale, *dbias;
};

struct SigmoidKernels { // they return false where there is no memory for their scratch
    bool (*forward)(const Logits &, void *sums);
    // The gradient of sum_i weights_i * sums_i.
    bool (*backward)(const Logits &, const void *weights, const SigmoidGradients &);
    // Both for rows of weight `share`.
    bool (*loss)(const Logits &, double share, void *value, const SigmoidGradients &);
};

} // namespace sslkernels
