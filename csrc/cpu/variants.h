// SPDX-License-Identifier: Apache-2.0
// Which instruction set is in use, and its kernels. CMake lists those of the build in SSLK_VARIANTS.
#pragma once
#include "variant.h"
#include <string>
#include <vector>

namespace sslkernels {

Variant variant();                         // the one in use, picked once
std::string isa();                         // its name
std::vector<std::string> available_isas(); // names of what this processor can run, slowest first

template <class Kernels, Variant... built> const Kernels &kernels_of(Variant wanted) {
    const Kernels *found = nullptr;
    ((built == wanted ? void(found = &kernels_for<Kernels, built>()) : void()), ...);
    return *found;
}

// The kernels of a family for the instruction set in use.
template <class Kernels> const Kernels &kernels() {
    static const Kernels &chosen = kernels_of<Kernels, SSLK_VARIANTS>(variant());
    return chosen;
}

} // namespace sslkernels
