// SPDX-License-Identifier: Apache-2.0
// Declares the kernels of prototypes and their arguments. A table holds the products of rows with prototypes, in fp32
// or fp64, row by row without gaps; all other numbers have its type.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Table { // logits are scale * products
    int dtype;
    void *products; // (rows, prototypes)
    int64_t rows, prototypes;
    double scale;
    int threads;
};

struct Targets {          // row i of a table is compared with the rows index[i][t] of these, share[i][t] of each
    const void *softmax;  // (_, prototypes)
    const int64_t *index; // (rows, each); -1 for none
    const void *share;    // (rows, each), 0 for none
    int64_t each;
};

enum Gradients : int { // what takes the place of products
    kNone,
    kWide,    // gradients in the type of the table
    kRounded, // in bfloat16, in the first half of the memory of each row of an fp32 table
};

struct Spread {          // what Sinkhorn's steps know of rows and prototypes
    const void *weights; // (rows,), how often each row counts; null for once
    const void *bias;    // (prototypes,)
};

struct PrototypeKernels { // they return false where there is no memory for their scratch
    // Writes the products of rows (rows, d) with prototypes (prototypes, d), both in bfloat16, to an fp32 table.
    bool (*multiply)(const Table &, const Rows &rows, const Rows &weight, int64_t d);
    // Turns products into softmax(logits + bias); bias (prototypes,) may be null.
    void (*soften)(const Table &, const void *bias);
    // Writes the cross-entropy of each row and its derivative by the scale, and turns products into their gradients.
    void (*compare)(const Table &, const Targets &, Gradients, void *losses, void *slopes);
    // Takes the rows of a table into the log-sum-exp of each column, peak + log(total).
    void (*columns)(const Table &, const void *weights, void *peaks, void *totals);
    // Adds the rows of weight * softmax(logits + bias) to `mass` (prototypes,).
    bool (*spread)(const Table &, const Spread &, void *mass);
};

} // namespace sslkernels
