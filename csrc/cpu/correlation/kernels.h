// SPDX-License-Identifier: Apache-2.0
// Declares the correlation kernels and their arguments. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Columns { // a = (z - mean) * scale of one view, in fp32 (fp64); a = z where mean and scale are null
    Rows rows;
    int64_t d;
    const void *mean; // (2, d): the rounded mean, and the rest that rounding took from it
    const void *scale;
};

// dz = outer * da + (own + through * sum of da a) * a + mixed * b + pull * (z - z'), where z' is the other view and b
// are its columns.
struct CorrelationGrad {
    int dtype, compute;
    Columns views[2];     // the second has no data where there is one view
    int64_t first, count; // rows that receive a gradient
    bool samples, cross;
    const void *matrix[2]; // per view: K (N, N), so that da = K a, if `samples`; else C (D, D); null for no da
    const void *outer, *own, *mixed, *through; // (views, d) each, or null; dz = da where own is null
    double pull;
    bool widened; // dz has the dtype of sums, and not that of the rows
    void *out[2]; // null where not wanted
    int threads;
};

enum Energy : int { kNone = 0, kCross = 1, kEach = 2 }; // which matrices there are: none, a^T b, or a^T a and b^T b

struct CorrelationLoss { // loss.h has the formula; crossed columns are standardised
    int dtype, compute;
    Rows views[2]; // the second has no data where there is one view
    int64_t d;
    int energy;
    bool samples, standardised, unbiased, outside; // a divisor of `outside` is sqrt(variance) + eps
    double eps, agreement, gap, hinge, hinge_eps, off;
    int64_t power;
    void *value, *gradients[2]; // fp32 (fp64); a gradient is null where not wanted
    int threads;
};

struct CorrelationKernels { // they return false where there is no memory for their scratch
    bool (*moments)(int dtype, Rows z0, Rows z1, int64_t d, bool centre, void *mean, double *squares, double *products,
                    double *gap, int threads);
    bool (*samples)(int dtype, Columns a, int64_t first, int64_t count, void *out, int threads);
    bool (*features)(int dtype, int compute, Columns a, Columns b, bool itself, void *out, int threads);
    bool (*energies)(int dtype, const void *x, const void *y, int64_t n, int64_t m, double *rows, double *columns,
                     double *total, int threads);
    bool (*backward)(const CorrelationGrad &);
    bool (*loss)(const CorrelationLoss &);
};

} // namespace sslkernels
