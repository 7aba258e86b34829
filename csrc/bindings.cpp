// SPDX-License-Identifier: Apache-2.0
// The Python module sslkernels._C: pointers, sizes and strides in, nothing out. It links no torch, so that one build
// serves every torch version; the ops in sslkernels/ops allocate and check before they call. The functions are in the
// bindings.cpp of every family and of cuda/.
#include "bindings.h"
#include "cpu/variants.h"

namespace sslkernels {

static std::vector<void (*)(py::module_ &)> &parts() {
    static std::vector<void (*)(py::module_ &)> parts;
    return parts;
}

Bindings::Bindings(void (*add)(py::module_ &)) { parts().push_back(add); }

} // namespace sslkernels

PYBIND11_MODULE(_C, module) {
    using namespace sslkernels;
    module.doc() =
        "Compiled kernels of sslkernels, and what launches those of CUDA. Private: call sslkernels.functional instead.";
    variant(); // a wrong SSLKERNELS_ISA is an import error, not a surprise later
    module.def("isa", &isa);
    module.def("available_isas", &available_isas);
    for (const auto add : parts()) add(module);
}
