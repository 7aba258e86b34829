// SPDX-License-Identifier: Apache-2.0
// Arguments of the correlation kernels, and their table. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Columns { // of one view: a = (z - mean) * scale, in fp32 (fp64); mean and scale null: a = z
    Rows rows;
    int64_t d;
    const void *mean; // (2, d): rounded, and what rounding left of it
    const void *scale;
};

struct CorrelationGrad { // dz = outer * da + (own + through * sum of da a) * a + mixed * b + pull * (z - z'), where z'
                         // is the other view and b are its columns
    int dtype, compute;
    Columns views[2];     // of one view the second is without data
    int64_t first, count; // rows that receive a gradient
    bool samples, cross;
    const void *matrix[2]; // per view: K, N x N of `samples`, with da = K a; or C, D x D; or null: no da
    const void *outer, *own, *mixed, *through; // (views, d) each, or null: dz = da without the first
    double pull;
    void *out[2]; // null where not wanted
    int threads;
};

struct CorrelationKernels {
    bool (*moments)(int dtype, Rows z0, Rows z1, int64_t d, bool centre, void *mean, double *squares, double *products,
                    double *gap, int threads);
    bool (*samples)(int dtype, Columns a, int64_t first, int64_t count, void *out, int threads);
    bool (*features)(int dtype, int compute, Columns a, Columns b, bool itself, void *out, int threads);
    bool (*energies)(int dtype, const void *x, const void *y, int64_t n, int64_t m, double *rows, double *columns,
                     double *total, int threads);
    bool (*backward)(const CorrelationGrad &);
};

} // namespace sslkernels
