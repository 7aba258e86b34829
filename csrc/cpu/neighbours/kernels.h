// SPDX-License-Identifier: Apache-2.0
// Declares the kernel that finds nearest rows, and its arguments. Strides count elements. Values are fp32 (fp64 for
// fp64 rows).
#pragma once
#include "../row_access.h"

namespace sslkernels {

enum Metric : int { kDot = 0, kCosine = 1, kEuclidean = 2 };

struct Search { // a batch of problems: the k best rows of y for each row of x
    int dtype, metric;
    int64_t batch;
    Rows x, y;                // of the first problem
    int64_t x_apart, y_apart; // from one problem to the next
    bool itself;              // y is x, and a row does not find itself
    int64_t d, k;
    const void *bias;       // (batch, y.count), added to the products; null for none
    const int64_t *exclude; // (batch, x.count, excluded): rows of y that a row leaves out; -1 for none
    int64_t excluded;
    int threads;
};

struct NeighboursKernels { // it returns false where there is no memory for its scratch
    bool (*topk)(const Search &, void *values, int64_t *indices); // both (batch, x.count, k), best first
};

} // namespace sslkernels
