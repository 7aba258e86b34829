// SPDX-License-Identifier: Apache-2.0
// Picks how this instruction set multiplies bfloat16: on the matrix unit, two at a time, or widened to fp32.
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

} // namespace
