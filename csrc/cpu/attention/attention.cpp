// SPDX-License-Identifier: Apache-2.0
// Computes O = softmax(S) * V with S = s*Q*K^T + bias, and its gradients, without the matrix.
//
//   forward   a running (max, sum) per query and the sum of e^(t - max)*v, rescaled when the maximum moves
//   backward  P = e^(t - lse),  dS = P (dO*V^T - delta);  dQ = s*dS*K,  dK = s*dS^T*Q,  dV = P^T*dO
//
// Blocks of owners (in vector lanes) meet blocks of others (similarity/schedule.h). A thread owns the rows it writes,
// so there are no atomics, and the order of every sum depends on the thread count alone.
// Cost: 2*N*M*(D + Dv) operations forward, and 6*N*M*D + 4*N*M*Dv backward for all gradients; O((N+M)*(D+Dv)) bytes.
// Derivation and measurements: docs/design/attention.md
#include "../bfloat16.h"
#include "../dot.h"
#include "../variant.h"
#include "backward.h"

namespace {

bool forward(const Attention &a, const Attended &to) {
    return with_policy(a.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        return attend_typed<typename C::Policy, typename C::Element>(a, to);
    });
}
bool backward(const Attention &a, const AttentionGrad &g) {
    return with_policy(a.dtype, [&](auto chosen) {
        using C = decltype(chosen);
        return attention_back_typed<typename C::Policy, typename C::Element>(a, g);
    });
}

} // namespace

namespace sslkernels {
template <> const AttentionKernels &kernels_for<AttentionKernels, SSLK_VARIANT>() {
    static const AttentionKernels table = {forward, backward};
    return table;
}
} // namespace sslkernels
