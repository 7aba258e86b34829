// SPDX-License-Identifier: Apache-2.0
// Declares the token kernels and their arguments. Strides count elements.
#pragma once
#include <stdint.h>

namespace sslkernels {

struct TokenRows { // (samples, prefix + rows, d); the stride along d is 1
    int dtype;
    const void *data;
    int64_t sample_stride, row_stride, prefix, d;
};
struct TokenIndex { // (sets, batch, kept), contiguous; int64 where wide, else int32
    const void *data;
    bool wide;
    int64_t sets, batch, kept;
};
enum TokenNorm : int { kPlain = 0, kMae = 1, kLayer = 2 };
struct TokenErrors {        // of pred (samples, tokens, d) from a target of its shape; a token of weight 0 is not read
    TokenRows pred, target; // their prefix is 0
    const void *weights;    // (samples, tokens), contiguous
    int64_t samples, tokens;
    int norm;
    double beta; // 0 for squared errors
    double grad; // the gradient is multiplied by it
    int threads;
};
enum TokenResult : int { kDone = 0, kWrongIndex = 1, kNoMemory = 2 };

struct TokenKernels { // fill, pos, weights and the value of errors are fp32 (fp64)
    int (*gather)(const TokenRows &, const TokenIndex &, int64_t length, const void *fill, const void *pos,
                  bool by_place, int to, void *out, int threads);
    int (*collect)(const TokenRows &, const TokenIndex &, int64_t length, const void *fill, bool strict, int to,
                   void *out, int threads);
    int (*sums)(const TokenRows &, const TokenIndex &, int64_t length, void *out, int threads);
    int (*ranks)(const void *keys, int64_t batch, int64_t length, int64_t keep, void *ids_keep, void *ids_restore,
                 void *mask, int threads);
    int (*patches)(int dtype, const void *images, int64_t channels, int64_t down, int64_t across, int64_t patch,
                   const TokenIndex &, void *out, int threads);
    void (*masked_error)(const TokenErrors &, void *value, void *dpred); // dpred is null where not wanted
};

} // namespace sslkernels
