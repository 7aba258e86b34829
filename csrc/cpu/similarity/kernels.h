// SPDX-License-Identifier: Apache-2.0
// Declares the similarity kernels and their arguments. Strides count elements. Sums, weights and gradients are fp32
// (fp64 for fp64 rows).
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Diagonals {                     // row i leaves out the columns start + (first + i) % step + k * step, k < views
    int64_t start, first, step, views; // views is 0 where none is left out
};

struct Similarity { // S = scale * X * Y^T + bias
    int dtype;
    Rows x, y;
    bool itself; // y is x, and each pair counts on both sides
    int64_t d;
    double scale;
    const int64_t *exclude; // (x.count, excluded): keys that a row leaves out; -1 for none
    int64_t excluded;
    Diagonals diagonals;
    const void *bias;                          // (y.count,), or null: added to each row of S; not where y is x
    const int64_t *row_labels, *column_labels; // of x and of y, or null: pairs whose labels are alike are left out,
    bool alike;                                // or those whose labels are not
    int threads;
};

// Log-sum-exps of the rows and columns of S and the gradient of each; null where there is none.
struct Sums {
    const void *rows, *rows_grad, *columns, *columns_grad;
};

struct Positives { // S of each anchor and its partner: p_i = scale * <x_i, y_(i + shift)>
    int dtype;
    Rows x, y;
    int64_t d, shift;
    double scale;
    int threads;
};

// Each (anchors,): the weight of a row's negatives, that of its column's, and of its positive with the sign turned.
struct Weights {
    void *rows, *columns, *pull;
};

// The way from moved, the sum over negatives of weight * key, to the gradient of the rows as they were given.
struct Finish {
    int dtype;
    Rows x; // as they were multiplied
    const void *moved;
    int64_t ld, d;
    Rows partners; // row i was pulled to partner i by pull[i]; no data where there is no pull
    const void *pull;
    const void *norms; // of the rows as they were given; null where they were multiplied as given
    double scale;
    int threads;
};

enum Against : int { kItself = 0, kBoth = 1, kRows = 2, kQueue = 3 };

// A loss of anchors and their negatives (ops/similarity/schema.py). Rows are given in `dtype` and multiplied in
// `compute`.
struct Contrast {
    int against, dtype, compute;
    Rows x, y, negatives; // row i of x matches row i of y; negatives are in `compute` already
    int64_t d;
    double scale;
    bool unit;         // x and y are divided by their norms
    bool frozen;       // no key gets a gradient, in this call or in another of the same loss
    double share;      // the weight of an anchor's loss
    int64_t most_kept; // bytes of exponentials that may be kept for the gradient
    int threads;
};
struct ContrastOut { // null where not wanted
    void *value, *dx, *dy, *dnegatives, *dscale;
};

struct SimilarityKernels { // they return false where there is no memory for their scratch
    bool (*forward)(const Similarity &, void *rows, void *columns, void *attended);
    bool (*backward)(const Similarity &, const Sums &, void *moved_x, void *moved_y, void *of_bias);
    void (*weigh)(const Positives &, const void *rows, const void *columns, double share, const Weights &,
                  double *value, double *of_scale);
    void (*finish)(const Finish &, void *out, double *of_scale);
    bool (*contrast)(const Contrast &, const ContrastOut &);
    // How many bytes the exponentials of n anchors and m keys take, if they are kept.
    int64_t (*kept_bytes)(int against, int compute, int64_t n, int64_t m, int64_t d, int threads);
};

} // namespace sslkernels
