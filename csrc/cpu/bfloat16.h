// SPDX-License-Identifier: Apache-2.0
// Picks how this instruction set multiplies rows of each dtype. bfloat16 goes to the matrix unit, two at a time, or is
// widened to fp32.
#pragma once
#include "amx.h"

namespace {

#if defined(SSLK_MATRIX)
using BFloat16Policy = Matrix;
#elif defined(__AVX512BF16__)
using BFloat16Policy = Pairs;
#else
using BFloat16Policy = Wide<float>;
#endif

// Calls f with the policy and the element of rows that are multiplied in `dtype`.
template <class P, class In> struct Chosen {
    using Policy = P;
    using Element = In;
};
template <class F> auto with_policy(int dtype, F f) {
    switch (dtype) {
    case sslkernels::kFloat64: return f(Chosen<Wide<double>, double>());
    case sslkernels::kBFloat16: return f(Chosen<BFloat16Policy, bf16>());
    case sslkernels::kFloat16: return f(Chosen<Wide<float>, f16>());
    default: return f(Chosen<Wide<float>, float>());
    }
}

} // namespace
