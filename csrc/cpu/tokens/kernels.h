// SPDX-License-Identifier: Apache-2.0
// What one instruction set exports, and the arguments its kernels take. Strides count elements.
#pragma once
#include <stdint.h>

namespace sslkernels {

enum Dtype : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3 };

struct Rows {
    const void *data;
    int64_t stride, count;
};

struct Similarity { // S = scale * X * Y^T
    int dtype;
    Rows x, y;
    bool itself; // y is x: each pair counts on both sides
    int64_t d;
    double scale;
    const int64_t *exclude; // (x.count, excluded), -1 for none
    int64_t excluded;
    void *kept; // room for exponentials that the forward leaves for the backward, or null
    int64_t kept_bytes;
    int threads;
};

struct SimilarityGrad { // of sum(rows_grad * rows) + sum(columns_grad * columns); lse and gradients in fp32 (fp64)
    const void *rows, *rows_grad, *columns, *columns_grad;
    void *dx, *dy, *dscale;
};

struct RowCosine { // of x_i and y_i, as many of both
    int dtype;
    Rows x, y;
    int64_t d;
    double eps; // the least that a norm counts as
    int threads;
};

struct RowCosineGrad { // cosines (n), norms (2, n): of x, of y, not clamped; in fp32 (fp64)
    const void *cosines, *norms;
    const void *grad;
    int64_t grad_stride; // 0: one number for all rows
    void *dx, *dy;       // null where not wanted
};

struct Columns { // of one view: a = (z - mean) * scale, in fp32 (fp64); mean and scale null: a = z
    Rows rows;
    int64_t d;
    const void *mean; // (2, d): rounded, and what rounding left of it
    const void *scale;
};

struct CorrelationGrad { // dz = outer * da + (own + through * sum of da a) * a + mixed * b + pull * (z - z'), where z'
                         // is the other view and b are its columns
    int dtype, compute;
    Columns views[2];     // of one view the second is without data
    int64_t first, count; // rows that receive a gradient
    bool samples, cross;
    const void *matrix[2]; // per view: K, N x N of `samples`, with da = K a; or C, D x D; or null: no da
    const void *outer, *own, *mixed, *through; // (views, d) each, or null: dz = da without the first
    double pull;
    void *out[2]; // null where not wanted
    int threads;
};

struct CorrelationKernels {
    bool (*moments)(int dtype, Rows z0, Rows z1, int64_t d, bool centre, void *mean, double *squares, double *products,
                    double *gap, int threads);
    bool (*samples)(int dtype, Columns a, int64_t first, int64_t count, void *out, int threads);
    bool (*features)(int dtype, int compute, Columns a, Columns b, bool itself, void *out, int threads);
    bool (*energies)(int dtype, const void *x, const void *y, int64_t n, int64_t m, double *rows, double *columns,
                     double *total, int threads);
    bool (*backward)(const CorrelationGrad &);
};

struct Characteristic { // e^(i k step p) for k < knots, of projections p (views, n, slices) without gaps
    int dtype;          // fp32 or fp64
    const void *p;
    int64_t views, n, slices, knots;
    double step, turns[3]; // turns: step / 2 pi in pieces of few bits (characteristic/circle.h)
    int threads;
};

struct CharacteristicKernels {
    bool (*sums)(const Characteristic &, void *out); // (views, 2, knots, slices): of cosines, of sines
    bool (*adjoint)(const Characteristic &, const void *grad, void *dp);
};

struct TokenRows { // (samples, prefix + rows, d) of unit stride along d
    int dtype;
    const void *data;
    int64_t sample_stride, row_stride, prefix, d;
};
struct TokenIndex { // (sets, batch, kept), int64 where wide, else int32; without gaps
    const void *data;
    bool wide;
    int64_t sets, batch, kept;
};
enum TokenNorm : int { kPlain = 0, kMae = 1, kLayer = 2 };
struct TokenErrors { // rows of pred and target (rows, d) without gaps; a row of weight (or scale) 0 is not read
    int dtype, target_dtype;
    const void *pred, *target, *weights;
    int64_t rows, d;
    int norm;
    double beta; // 0: squares
    int threads;
};
enum TokenResult : int { kDone = 0, kWrongIndex = 1, kNoMemory = 2 };

struct TokenKernels { // fill, pos, weights and moments are fp32 (fp64)
    int (*gather)(const TokenRows &, const TokenIndex &, int64_t length, const void *fill, const void *pos,
                  bool by_place, int to, void *out, int threads);
    int (*collect)(const TokenRows &, const TokenIndex &, int64_t length, const void *fill, bool strict, int to,
                   void *out, int threads);
    int (*sums)(const TokenRows &, const TokenIndex &, int64_t length, void *out, int threads);
    int (*ranks)(const void *keys, int64_t batch, int64_t length, int64_t keep, void *ids_keep, void *ids_restore,
                 void *mask, int threads);
    int (*patches)(int dtype, const void *images, int64_t channels, int64_t down, int64_t across, int64_t patch,
                   const TokenIndex &, void *out, int threads);
    void (*errors)(const TokenErrors &, void *errors, void *moments);
    void (*errors_backward)(const TokenErrors &, const void *moments, void *dpred);
};

struct EmaPair {                      // of an update: flat memory, that of the target without gaps
    uintptr_t target, source, master; // master: float32, or 0
    int64_t count, dtypes;            // dtypes: the target's + 256 times the source's
    int target_dtype() const { return int(dtypes & 255); }
    int source_dtype() const { return int(dtypes >> 8); }
    bool operator==(const EmaPair &other) const {
        return target == other.target && source == other.source && master == other.master && count == other.count &&
               dtypes == other.dtypes;
    }
};

struct EmaKernels {
    void (*update)(const EmaPair *pairs, int64_t count, double momentum, int threads);
    // queue[(start + i) mod size] <- keys[i], rows of d
    void (*enqueue)(int queue_dtype, void *queue, int64_t queue_stride, int64_t size, int keys_dtype, Rows keys,
                    int64_t d, int64_t start, int threads);
};

struct Kernels {
    const char *name;
    bool (*similarity_forward)(const Similarity &, void *rows, void *columns, void *attended);
    bool (*similarity_backward)(const Similarity &, const SimilarityGrad &);
    void (*unit_rows_forward)(int dtype, Rows z, int64_t d, int out_dtype, void *unit, void *norms, int threads);
    void (*unit_rows_backward)(int dtype, const void *unit, const void *norms, Rows grad, int64_t d, int out_dtype,
                               void *dz, int threads);
    void (*row_dot_forward)(int dtype, Rows x, Rows y, int64_t d, int64_t shift, void *out, int threads);
    void (*scale_rows)(int dtype, Rows y, int64_t d, int64_t shift, const void *grad, bool also, int64_t also_shift,
                       int64_t n, void *out, int threads);
    void (*row_cosine_forward)(const RowCosine &, void *cosines, void *norms);
    void (*row_cosine_backward)(const RowCosine &, const RowCosineGrad &);
    const CorrelationKernels *correlation;
    const CharacteristicKernels *characteristic;
    const TokenKernels *tokens;
    const EmaKernels *ema;
};

} // namespace sslkernels
