// SPDX-License-Identifier: Apache-2.0
// Arguments of the kernels of the characteristic function, and their table.
#pragma once
#include <stdint.h>

namespace sslkernels {

struct Characteristic { // e^(i k step p) for k < knots, of projections p (views, n, slices) without gaps
    int dtype;          // fp32 or fp64
    const void *p;
    int64_t views, n, slices, knots;
    double step, turns[3]; // turns: step / 2 pi in pieces of few bits (circle.h)
    int threads;
};

struct SigregKernels {
    bool (*sums)(const Characteristic &, void *out); // (views, 2, knots, slices): of cosines, of sines
    bool (*adjoint)(const Characteristic &, const void *grad, void *dp);
};

} // namespace sslkernels
