// SPDX-License-Identifier: Apache-2.0
// Names the instruction sets. CMake compiles every <family>/<family>.cpp once for each of them, and calls that one
// SSLK_VARIANT. Only the table of its kernels is visible outside such a file.
#pragma once

namespace sslkernels {

enum Variant : int { baseline, avx2, avx512, avx512bf16, amx };

// Returns a family's kernels for one instruction set. <family>.cpp defines it for SSLK_VARIANT.
template <class Kernels, Variant variant> const Kernels &kernels_for();

} // namespace sslkernels
