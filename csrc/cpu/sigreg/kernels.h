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

struct Centred { // views (views, positions) of any dtype, contiguous; the first `centred` of them make the centre
    int dtype;
    const void *z;
    int64_t views, centred, positions;
    int threads;
};

struct SigregKernels {                               // they return false where there is no memory for their scratch
    bool (*sums)(const Characteristic &, void *out); // (views, 2, knots, slices): sums of cosines and of sines
    bool (*adjoint)(const Characteristic &, const void *grad, void *dp);
    // The Epps-Pulley statistic and `scale` times its gradient, which may take the place of p; null for none.
    bool (*statistic)(const Characteristic &, double scale, void *dp, double *value);
    // The mean square distance from the centre; `scale` times its gradient is added to dz, in the dtype of sums.
    bool (*distance)(const Centred &, double scale, void *dz, double *value);
};

} // namespace sslkernels
