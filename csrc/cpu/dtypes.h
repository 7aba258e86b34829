// SPDX-License-Identifier: Apache-2.0
// What a kernel source needs to be one of several variants: its names, and the types that a dtype code stands for.
#pragma once
#include "amx.h"
#include "kernels.h"

#define SSLK_CONCAT_(a, b) a##b
#define SSLK_CONCAT(a, b) SSLK_CONCAT_(a, b)
#define SSLK_TEXT_(a) #a
#define SSLK_TEXT(a) SSLK_TEXT_(a)
#define SSLK_NAME(prefix) SSLK_CONCAT(prefix, SSLK_VARIANT)

namespace {

#if defined(SSLK_MATRIX)
using BFloat16Policy = Matrix;
#elif defined(__AVX512BF16__)
using BFloat16Policy = Pairs;
#else
using BFloat16Policy = Wide<float>;
#endif

// Calls f with a value of the dtype's type.
template <class F> void with_type(int dtype, F f) {
    switch (dtype) {
    case sslkernels::kFloat64: return f(double());
    case sslkernels::kBFloat16: return f(bf16());
    case sslkernels::kFloat16: return f(f16());
    default: return f(float());
    }
}
template <class T> struct Accumulator {
    using type = float;
};
template <> struct Accumulator<double> {
    using type = double;
};

} // namespace
