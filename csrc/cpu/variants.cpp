// SPDX-License-Identifier: Apache-2.0
// Picks the instruction set once, at first use: the best this processor has, or what SSLKERNELS_ISA names.
#include "dispatch.h"
#include <cstdlib>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifdef SSLK_HAVE_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sslkernels {

extern const Kernels kernels_baseline;
#ifdef SSLK_HAVE_AVX2
extern const Kernels kernels_avx2, kernels_avx512;
#endif
#ifdef SSLK_HAVE_AVX512BF16
extern const Kernels kernels_avx512bf16;
#endif
#ifdef SSLK_HAVE_AMX
extern const Kernels kernels_amx;
#endif

namespace {

#ifdef SSLK_HAVE_AVX512BF16
bool has_avx512bf16() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}
#endif

#ifdef SSLK_HAVE_AMX
// The processor has AMX-BF16, and the kernel keeps its tiles for this process once asked.
bool has_amx() {
#ifdef SSLK_EMULATE_AMX
    return true;
#else
    unsigned a, b, c, d;
    const bool present = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
    constexpr int kRequestPermission = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return present && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#endif
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
            if (has_avx512bf16()) {
                found.push_back(&kernels_avx512bf16);
#ifdef SSLK_HAVE_AMX
                if (has_amx()) found.push_back(&kernels_amx);
#endif
            }
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
