// SPDX-License-Identifier: Apache-2.0
// Declares the kernels of the empirical characteristic function and their arguments.
#pragma once
#include <stdint.h>

namespace sslkernels {

struct Characteristic { // e^(i k step p) for k < knots; projections p are (views, n, slices) and contiguous
    int dtype;          // fp32 or fp64
    const void *p;
    int64_t views, n, slices, knots;
    double step, turns[3]; // turns: step / 2 pi as a sum of numbers with few bits (circle.h)
    int threads;
};

struct SigregKernels {                               // they return false where there is no memory for their scratch
    bool (*sums)(const Characteristic &, void *out); // (views, 2, knots, slices): sums of cosines and of sines
    bool (*adjoint)(const Characteristic &, const void *grad, void *dp);
};

} // namespace sslkernels
