// SPDX-License-Identifier: Apache-2.0
// Finds the kernels for the instruction set in use. CMake lists the instruction sets of a build in SSLK_VARIANTS.
#pragma once
#include "variant.h"
#include <string>
#include <vector>

namespace sslkernels {

Variant variant();                         // in use; picked at the first call
std::string isa();                         // its name
std::vector<std::string> available_isas(); // names of those this processor can run, slowest first

template <class Kernels, Variant... built> const Kernels &kernels_of(Variant wanted) {
    const Kernels *found = nullptr;
    ((built == wanted ? void(found = &kernels_for<Kernels, built>()) : void()), ...);
    return *found;
}

// Returns a family's kernels for the instruction set in use.
template <class Kernels> const Kernels &kernels() {
    static const Kernels &chosen = kernels_of<Kernels, SSLK_VARIANTS>(variant());
    return chosen;
}

} // namespace sslkernels
