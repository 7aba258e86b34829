// SPDX-License-Identifier: Apache-2.0
// Picks the instruction set once, at first use: the best this processor has, or what SSLKERNELS_ISA names.
#include "dispatch.h"
#include <cstdlib>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace sslkernels {

extern const Kernels kernels_baseline;
#ifdef SSLK_HAVE_AVX2
extern const Kernels kernels_avx2, kernels_avx512;
#endif
#ifdef SSLK_HAVE_AVX512BF16
extern const Kernels kernels_avx512bf16;
#endif

namespace {

#ifdef SSLK_HAVE_AVX512BF16
bool has_avx512bf16() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

std::vector<const Kernels *> available() {
    std::vector<const Kernels *> found{&kernels_baseline};
#ifdef SSLK_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        found.push_back(&kernels_avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
            found.push_back(&kernels_avx512);
#ifdef SSLK_HAVE_AVX512BF16
            if (has_avx512bf16()) found.push_back(&kernels_avx512bf16);
#endif
        }
    }
#endif
    return found;
}

const Kernels &choose() {
    const auto found = available();
    const char *forced = std::getenv("SSLKERNELS_ISA");
    if (!forced || !*forced) return *found.back();
    std::string names;
    for (const Kernels *k : found) {
        if (std::string(k->name) == forced) return *k;
        names += names.empty() ? k->name : std::string(", ") + k->name;
    }
    throw std::invalid_argument("SSLKERNELS_ISA is '" + std::string(forced) + "'; this processor can run " + names +
                                ". Unset it to take the best.");
}

} // namespace

const Kernels &kernels() {
    static const Kernels &chosen = choose();
    return chosen;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels *k : available()) names.push_back(k->name);
    return names;
}

} // namespace sslkernels
