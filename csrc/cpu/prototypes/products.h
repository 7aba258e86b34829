// SPDX-License-Identifier: Apache-2.0
// Multiplies rows of bfloat16 with prototypes and sums in fp32, which it also writes: torch.mm would round each logit
// to 8 bits. Prototypes lie in vector lanes, and each thread has its own; the rows are packed once for all of them.
// Cost: 2*N*K*D operations.
#pragma once
#include "../bfloat16.h"
#include "../memory.h"
#include "../packing.h"
#include "kernels.h"

namespace {

using sslkernels::Table;

template <class T> inline void store_some(T *p, Vector<T> v, int64_t count) {
    if (count >= kLanes<T>)
        store(p, v);
    else
        memcpy(p, &v, count * sizeof(T));
}

template <class P, class In> bool multiply_typed(const Table &t, const Rows &rows, const Rows &weight, int64_t d) {
    using Elem = typename P::Elem;
    constexpr int64_t MR = P::MR, NR = P::NR, L = kLanes<typename P::Acc>;
    const int64_t steps = steps_for<P>(d), side = kBlock * round_up(steps, NR) * int64_t(sizeof(Elem));
    const int64_t blocks = (t.rows + kBlock - 1) / kBlock, lanes = (t.prototypes + kBlock - 1) / kBlock;
    const int threads = t.rows * t.prototypes * d < (1 << 20) ? 1 : t.threads;
    Memory memory((blocks + threads) * round_up(side, 64));
    if (!memory.data) return false;
    char *packed = memory.take(blocks * round_up(side, 64)), *scratch = memory.take(threads * round_up(side, 64));
    const auto others_of = [&](int64_t b) { return reinterpret_cast<Elem *>(packed + b * round_up(side, 64)); };
#pragma omp parallel num_threads(threads)
    {
        [[maybe_unused]] typename P::Session session;
        Elem *owners = reinterpret_cast<Elem *>(scratch + omp_get_thread_num() * round_up(side, 64));
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; ++b)
            pack_others<P, In>(rows, b * kBlock, least(kBlock, t.rows - b * kBlock), d, others_of(b));
#pragma omp for schedule(static)
        for (int64_t o = 0; o < lanes; ++o) {
            const int64_t first = o * kBlock, count = least(kBlock, t.prototypes - first);
            pack_lanes<P, In>(weight, first, count, d, owners);
            for (int64_t n0 = 0; n0 < count; n0 += NR) {
                const int64_t width = least(NR, count - n0);
                for (int64_t i = 0; i < t.rows; i += MR) { // kBlock is a multiple of MR
                    float tile[P::MR * P::NR];
                    dot_tile<P>(others_of(i / kBlock) + i % kBlock * NR, kBlock * NR, owners + n0 * steps, steps, tile,
                                int((width + L - 1) / L));
                    float *to = static_cast<float *>(t.products) + i * t.prototypes + first + n0;
                    for (int64_t m = 0; m < least(MR, t.rows - i); ++m, to += t.prototypes)
                        for (int64_t v = 0; v < width; v += L) store_some(to + v, load(tile + m * NR + v), width - v);
                }
            }
        }
    }
    return true;
}

} // namespace
