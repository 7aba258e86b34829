// SPDX-License-Identifier: Apache-2.0
// Computes the log-sum-exp of S = s*X*Y^T + bias over rows and columns, and its gradient, without the matrix; and
// losses made of both in one call (contrast.h).
//
//   forward   a running (max, sum) per owner, which stands for sum*e^max and is merged exactly
//   backward  G = a_i e^(t - lse_i) + b_j e^(t - lse_j);  dX = s*G*Y,  dY = s*G^T*X,  ds = sum x . (G*Y)
//
// Blocks of owners (in vector lanes) meet blocks of others. Where both sides are wanted, a pair of blocks serves both:
//   x with itself   groups of blocks meet as in a round-robin tournament, so that no two threads ever write one row
//   x with y        groups meet along the diagonals of a Latin square
//   one side only   each thread keeps its owners
// There are no atomics and no copies per thread, and the order of every sum depends on the thread count alone.
// Cost: 2*N*M*D operations forward, 4 to 6*N*M*D backward, half of that for x with itself; O((N+M)*D) bytes. In one
// call the forward leaves its exponentials where there is room, and the gradient saves 2*N*M*D operations (kept.h).
// Derivation and measurements: docs/design/similarity.md
#include "../bfloat16.h"
#include "contrast.h"

namespace {

bool forward(const Similarity &s, void *rows, void *columns, void *attended) {
    return with_policy(s.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        return forward_typed<typename C::Policy, typename C::Element>(s, {}, rows, columns, attended, attended, s.d);
    });
}
bool backward(const Similarity &s, const Sums &sums, void *moved_x, void *moved_y, void *of_bias) {
    return with_policy(s.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        return moved_typed<typename C::Policy, typename C::Element>(s, {}, sums, moved_x, moved_y, s.d, of_bias);
    });
}
void weigh(const Positives &of, const void *rows, const void *columns, double share, const Weights &weights,
           double *value, double *of_scale) {
    with_type(of.dtype, [&](auto in) {
        using In = decltype(in);
        weigh_typed<In, typename Accumulator<In>::type>(of, rows, columns, share, weights, value, of_scale);
    });
}
void finish(const Finish &f, void *out, double *of_scale) {
    with_type(f.dtype, [&](auto in) {
        using In = decltype(in);
        finish_typed<In, typename Accumulator<In>::type>(f, out, of_scale);
    });
}
bool contrast(const Contrast &c, const ContrastOut &out) {
    return with_policy(c.compute, [&](auto chosen) {
        using C = decltype(chosen);
        return ContrastCall<typename C::Policy, typename C::Element>{c, out}.run();
    });
}
int64_t kept(int against, int compute, int64_t n, int64_t m, int64_t d, int threads) {
    const bool itself = against == sslkernels::kItself, both = against == sslkernels::kBoth;
    const Meeting meeting = itself ? Meeting::kItself : both ? Meeting::kBothSides : Meeting::kOneSide;
    return with_policy(compute, [&](auto chosen) {
        using P = typename decltype(chosen)::Policy;
        return Kept<P>::bytes(layout_of<P>(meeting, n, m, d, threads));
    });
}

} // namespace

namespace sslkernels {
template <> const SimilarityKernels &kernels_for<SimilarityKernels, SSLK_VARIANT>() {
    static const SimilarityKernels table = {forward, backward, weigh, finish, contrast, kept};
    return table;
}
} // namespace sslkernels
