// SPDX-License-Identifier: Apache-2.0
// Declares the attention kernels and their arguments. Strides count elements. Sums and gradients are fp32 (fp64 for
// fp64 rows).
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct Attention { // O = softmax(scale * Q * K^T + bias) * V
    int dtype;
    Rows queries, keys, values;
    int64_t d, dv; // features of queries and keys, and of values
    double scale;
    const void *bias;       // (keys.count,), or null
    const int64_t *exclude; // (queries.count, excluded): keys that a row leaves out; -1 for none
    int64_t excluded;
    int threads;
};

struct Attended {    // rows are contiguous
    void *out, *lse; // (queries.count, dv) and (queries.count,)
};

struct AttentionGrad {
    const void *out, *lse, *grad; // of the forward, and the gradient of `out`
    // Sums over keys of dS * key, over queries of dS * query, of P * grad and of dS; null where not wanted.
    void *moved_queries, *moved_keys, *dvalues, *dbias;
};

struct AttentionKernels { // they return false where there is no memory for their scratch
    bool (*forward)(const Attention &, const Attended &);
    bool (*backward)(const Attention &, const AttentionGrad &);
};

} // namespace sslkernels
