// SPDX-License-Identifier: Apache-2.0
// Declares the kernels of prototypes and their arguments. Strides count elements. All numbers but those of rows and
// prototypes are fp32 (fp64 for fp64 rows). A table holds products of rows with prototypes, row by row without gaps.
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

struct Comparison { // of the softmaxes of a student's rows with those of the teacher's rows that they follow
    int dtype;
    Rows student, weight, teacher, teacher_weight;
    int64_t d, teacher_d;
    double scale, teacher_scale; // logits are scale * <row, prototype>; the teacher's have a bias besides
    const void *bias;            // (prototypes,), or null
    const int64_t *index;        // (rows, each): rows of the teacher; -1 for none
    const void *share;           // (rows, each): the weight of each pair; a row without any may hold anything
    int64_t each;
    int64_t most, kept; // bytes that all threads' sums of rows may take, and logits that are kept
    int threads;
};
struct ComparisonOut { // null where not wanted
    void *value, *dstudent, *dweight, *dscale;
};

struct Spread {          // what Sinkhorn's steps know of rows and prototypes
    const void *weights; // (rows,), how often each row counts; null for once
    const void *bias;    // (prototypes,)
};

struct PrototypeKernels { // they return false where there is no memory for their scratch
    // Writes the products of rows (rows, d) with prototypes (prototypes, d), both in bfloat16, to an fp32 table.
    bool (*multiply)(const Table &, const Rows &rows, const Rows &weight, int64_t d);
    // Sums share * cross-entropy over all pairs, and finds the gradients of the sum.
    bool (*compare)(const Comparison &, const ComparisonOut &);
    // Takes the rows of a table into the log-sum-exp of each column, peak + log(total).
    void (*columns)(const Table &, const void *weights, void *peaks, void *totals);
    // Adds the rows of weight * softmax(logits + bias) to `mass` (prototypes,).
    bool (*spread)(const Table &, const Spread &, void *mass);
};

} // namespace sslkernels
