// SPDX-License-Identifier: Apache-2.0
// The Python module sslkernels._C. Its functions take pointers, sizes and strides and return next to nothing; each
// family has them in its own bindings.cpp. The module links no torch, so that one build serves every torch version. The
// ops in sslkernels/ops allocate and check before they call.
#include "bindings.h"
#include "cpu/variants.h"
#include "cpu/workspace.h"

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
    variant(); // so that a wrong SSLKERNELS_ISA fails when the module is imported
    module.def("isa", &isa);
    module.def("available_isas", &available_isas);
    module.def("limit_workspace", &limit_workspace);
    module.def("workspace_bytes", &workspace_bytes);
    module.def("release_workspace", &release_workspace);
    for (const auto add : parts()) add(module);
}
