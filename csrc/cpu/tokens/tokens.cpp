// SPDX-License-Identifier: Apache-2.0
// Moves tokens, which are rows of d numbers, by index, and computes masked errors.
//
//   gather     out[m B + b, P + k] = x[b, P + i] or fill, + pos     i = index[m, b, k]
//   collect    out[b, P + s] = sum of x[m B + b, P + k] over index[m, b, k] = s, or fill
//              Each row is written once. The entries of a sample are sorted by index into lists (a head per row, a next
//              per entry). An index that is no permutation therefore costs nothing more, and sums run in the order of
//              (m, k).
//   sums       does the same over all samples, in fp64; a thread owns columns
//   ranks      sorts a sample's keys, and writes the rank, order and mask of each
//   patches    copies the pixels of the patches that are kept
//   error      weighted mean of the errors of tokens that have a weight, and its gradient, in one pass; the target is
//              standardised as it is read
//
// Cost: one read and one write of what is moved, and 8 bytes of index per row. Memory bounds it, so rows of a large
// result are written around the caches, into huge pages. Measurements: docs/design/tokens.md
#include "../dtypes.h"
#include "../variant.h"
#include "errors.h"
#include "kernels.h"
#include "ranks.h"
#include "rows_moved.h"

namespace {

using sslkernels::TokenErrors;
using sslkernels::TokenIndex;
using sslkernels::TokenRows;

// Calls f with an element of x and one of the result. They have the same type, or one has 16 bits and the other is
// fp32.
template <class F> int with_types(int from, int to, F f) {
    int done = sslkernels::kDone;
    with_type(from, [&](auto in) {
        using In = decltype(in);
        if (from == to)
            done = f(in, in);
        else if constexpr (sizeof(In) == 2)
            done = f(in, float());
        else if constexpr (sizeof(In) == 4)
            done = to == sslkernels::kBFloat16 ? f(in, bf16()) : f(in, f16());
    });
    return done;
}

int gather(const TokenRows &x, const TokenIndex &index, int64_t length, const void *fill, const void *pos,
           bool by_place, int to, void *out, int threads) {
    return with_types(x.dtype, to, [&](auto in, auto result) {
        return gather_typed<decltype(in), decltype(result)>(x, index, length, fill, pos, by_place, out, threads);
    });
}
int collect(const TokenRows &x, const TokenIndex &index, int64_t length, const void *fill, bool strict, int to,
            void *out, int threads) {
    return with_types(x.dtype, to, [&](auto in, auto result) {
        return collect_typed<decltype(in), decltype(result)>(x, index, length, fill, strict, out, threads);
    });
}
int sums(const TokenRows &x, const TokenIndex &index, int64_t length, void *out, int threads) {
    int done = sslkernels::kDone;
    with_type(x.dtype, [&](auto in) { done = sums_typed<decltype(in)>(x, index, length, out, threads); });
    return done;
}
int patches(int dtype, const void *images, int64_t channels, int64_t down, int64_t across, int64_t patch,
            const TokenIndex &index, void *out, int threads) {
    const int64_t size = dtype == sslkernels::kFloat64 ? 8 : dtype == sslkernels::kFloat32 ? 4 : 2;
    return patches_of(size, static_cast<const char *>(images), channels, down, across, patch, index,
                      static_cast<char *>(out), threads);
}
// Calls f with an element of the prediction and one of the target.
template <class F> void with_pair(int pred, int target, F f) {
    with_type(pred, [&](auto p) {
        if constexpr (sizeof p == 8)
            f(p, p);
        else
            with_type(target, [&](auto t) {
                if constexpr (sizeof t != 8) f(p, t);
            });
    });
}
void masked_error(const TokenErrors &e, void *value, void *dpred) {
    with_pair(e.pred.dtype, e.target.dtype,
              [&](auto p, auto t) { masked_error_typed<decltype(p), decltype(t)>(e, value, dpred); });
}

} // namespace

namespace sslkernels {
template <> const TokenKernels &kernels_for<TokenKernels, SSLK_VARIANT>() {
    static const TokenKernels table = {gather, collect, sums, ranks, patches, masked_error};
    return table;
}
} // namespace sslkernels
