// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Side = std::array<int64_t, 3>;      // address, stride, rows
    using Gradients = std::array<Address, 4>; // of x, y, scale and bias
    static const auto logits = [](int dtype, const Side &x, const Side &y, bool itself, bool paired, int64_t d,
                                  double scale, double bias, int threads) {
        return Logits{dtype, {at(x[0]), x[1], x[2]}, {at(y[0]), y[1], y[2]}, itself, paired, d, scale, bias, threads};
    };
    module.def("sigmoid_forward", [](int dtype, Side x, Side y, bool itself, bool paired, int64_t d, double scale,
                                     double bias, Address sums, int threads) {
        py::gil_scoped_release release;
        must(kernels<SigmoidKernels>().forward(logits(dtype, x, y, itself, paired, d, scale, bias, threads), at(sums)));
    });
    module.def("sigmoid_backward", [](int dtype, Side x, Side y, bool itself, bool paired, int64_t d, double scale,
                                      double bias, Address weights, Gradients to, int threads) {
        py::gil_scoped_release release;
        must(kernels<SigmoidKernels>().backward(logits(dtype, x, y, itself, paired, d, scale, bias, threads),
                                                at(weights), {at(to[0]), at(to[1]), at(to[2]), at(to[3])}));
    });
    module.def("sigmoid_loss", [](int dtype, Side x, Side y, bool paired, int64_t d, double scale, double bias,
                                  double share, Address value, Gradients to, int threads) {
        py::gil_scoped_release release;
        must(kernels<SigmoidKernels>().loss(logits(dtype, x, y, false, paired, d, scale, bias, threads), share,
                                            at(value), {at(to[0]), at(to[1]), at(to[2]), at(to[3])}));
    });
});

} // namespace sslkernels
