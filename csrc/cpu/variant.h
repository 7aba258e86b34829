// SPDX-License-Identifier: Apache-2.0
// Every <family>/<family>.cpp is compiled once for each instruction set of a build, which is then SSLK_VARIANT. It
// shares nothing with the rest of the module but the table of its kernels, so that no other code needs that instruction
// set.
#pragma once

namespace sslkernels {

enum Variant : int { baseline, avx2, avx512, avx512bf16, amx };

// The kernels of a family for one instruction set; <family>.cpp defines this for SSLK_VARIANT.
template <class Kernels, Variant variant> const Kernels &kernels_for();

} // namespace sslkernels
