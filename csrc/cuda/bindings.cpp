// SPDX-License-Identifier: Apache-2.0
#include "../bindings.h"
#include "launcher.h"
#include <cstring>

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    // Returns the bits of a field of a kernel's struct, which is an address, a whole number or a double.
    static const auto field = [](py::handle value) {
        uint64_t bits;
        if (py::isinstance<py::float_>(value)) {
            const auto number = value.cast<double>();
            std::memcpy(&bits, &number, sizeof bits);
        } else {
            bits = static_cast<uint64_t>(value.cast<int64_t>());
        }
        return bits;
    };
#ifdef SSLK_CUDA_VERSION
    module.attr("CUDA_VERSION") = SSLK_CUDA_VERSION; // the version that compiled the shipped images; 13000 for 13.0
#else
    module.attr("CUDA_VERSION") = 0;
#endif
    module.def("cuda_driver_version", &cuda::driver_version);
    module.def("cuda_load", [](const py::bytes &image) { return Address(cuda::load(image)); });
    module.def("cuda_kernel",
               [](Address library, const std::string &name) { return Address(cuda::kernel(at(library), name)); });
    module.def("cuda_launch", [](Address kernel, int device, Address stream, std::array<unsigned, 2> blocks,
                                 std::array<unsigned, 2> threads, const py::tuple &values) {
        std::vector<uint64_t> fields;
        for (const py::handle value : values) fields.push_back(field(value));
        cuda::launch(at(kernel), device, at(stream), blocks, threads, std::move(fields));
    });
});

} // namespace sslkernels
