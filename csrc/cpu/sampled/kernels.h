// SPDX-License-Identifier: Apache-2.0
// Declares the kernels of sampled products and their arguments. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Sampled { // the pairs (x_i, y_j) with j = index[i, k]; -1 stands for none
    int dtype;
    Rows x, y;
    int64_t d;
    const void *index; // (n, k), contiguous; int64 where wide, else int32
    bool wide;
    int64_t k;
    double scale;
    int threads;
};

struct SampledGrad {
    const void *grad; // (n, k) in fp32 (fp64), contiguous
    void *out;        // dx or dy, in the dtype of the rows; null where not wanted
    void *along;      // the gradient of the scale, one number in fp32 (fp64); null where not wanted
};

struct SampledKernels {
    void (*forward)(const Sampled &, void *out); // (n, k) in fp32 (fp64)
    // They return false where there is no memory.
    bool (*gradient_of_x)(const Sampled &, const SampledGrad &);
    bool (*gradient_of_y)(const Sampled &, const SampledGrad &);
};

} // namespace sslkernels
