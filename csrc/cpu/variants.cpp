// SPDX-License-Identifier: Apache-2.0
// Picks the instruction set once, at first use: the best this processor has, or the one SSLKERNELS_ISA names.
#include "variants.h"
#include <cstdlib>
#include <stdexcept>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace sslkernels {
namespace {

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512bf16() {
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
}

// Says whether the processor has AMX-BF16 and Linux lets this process use its tiles, which it must ask for.
bool has_amx() {
#if defined(SSLK_EMULATE_AMX)
    return has_avx512bf16();
#elif defined(__linux__)
    unsigned a, b, c, d;
    const bool present = has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1);
    constexpr int kRequestPermission = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return present && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
#endif

struct InstructionSet {
    Variant variant;
    const char *name;
    bool (*runs)(); // whether this processor has it
};

// The one table of instruction sets, slowest first. CMakeLists.txt has the compiler's options for each of them.
const InstructionSet kInstructionSets[] = {
    {baseline, "baseline", [] { return true; }},
#if defined(__x86_64__)
    {avx2, "avx2", has_avx2},
    {avx512, "avx512", has_avx512},
    {avx512bf16, "avx512bf16", has_avx512bf16},
    {amx, "amx", has_amx},
#endif
};

bool is_built(Variant variant) {
    for (Variant built : {SSLK_VARIANTS})
        if (built == variant) return true;
    return false;
}

std::vector<InstructionSet> available() {
    std::vector<InstructionSet> found;
    for (const InstructionSet &set : kInstructionSets)
        if (is_built(set.variant) && set.runs()) found.push_back(set);
    return found;
}

InstructionSet choose() {
    const std::vector<InstructionSet> found = available();
    const char *forced = std::getenv("SSLKERNELS_ISA");
    if (!forced || !*forced) return found.back();
    std::string names;
    for (const InstructionSet &set : found) {
        if (std::string(set.name) == forced) return set;
        names += names.empty() ? set.name : std::string(", ") + set.name;
    }
    throw std::invalid_argument("SSLKERNELS_ISA is '" + std::string(forced) + "'; this processor can run " + names +
                                ". Unset it to take the best.");
}

const InstructionSet &chosen() {
    static const InstructionSet set = choose();
    return set;
}

} // namespace

Variant variant() { return chosen().variant; }
std::string isa() { return chosen().name; }

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const InstructionSet &set : available()) names.push_back(set.name);
    return names;
}

} // namespace sslkernels
