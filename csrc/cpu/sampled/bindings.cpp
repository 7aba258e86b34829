// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Gradient = bool (*SampledKernels::*)(const Sampled &, const SampledGrad &);
    static const auto gradient = [](py::module_ &module, const char *name, Gradient kernel) {
        module.def(name, [kernel](int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride,
                                  int64_t m, int64_t d, Address index, bool wide, int64_t k, double scale, Address grad,
                                  Address out, Address along, int threads) {
            py::gil_scoped_release release;
            const auto run = kernels<SampledKernels>().*kernel;
            must(run({dtype, {at(x), x_stride, n}, {at(y), y_stride, m}, d, at(index), wide, k, scale, threads},
                     {at(grad), at(out), at(along)}));
        });
    };
    module.def("sampled_forward", [](int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride,
                                     int64_t m, int64_t d, Address index, bool wide, int64_t k, double scale,
                                     Address out, int threads) {
        py::gil_scoped_release release;
        kernels<SampledKernels>().forward(
            {dtype, {at(x), x_stride, n}, {at(y), y_stride, m}, d, at(index), wide, k, scale, threads}, at(out));
    });
    gradient(module, "sampled_gradient_of_x", &SampledKernels::gradient_of_x);
    gradient(module, "sampled_gradient_of_y", &SampledKernels::gradient_of_y);
});

} // namespace sslkernels
