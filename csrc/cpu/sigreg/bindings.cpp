// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Sizes = std::array<int64_t, 4>; // views, samples, slices, knots
    using Turns = std::array<double, 3>;
    static const auto problem = [](int dtype, Address p, const Sizes &sizes, double step, const Turns &turns,
                                   int threads) {
        return Characteristic{
            dtype, at(p), sizes[0], sizes[1], sizes[2], sizes[3], step, {turns[0], turns[1], turns[2]}, threads};
    };
    module.def("characteristic_sums",
               [](int dtype, Address p, Sizes sizes, double step, Turns turns, Address out, int threads) {
                   py::gil_scoped_release release;
                   must(kernels<SigregKernels>().sums(problem(dtype, p, sizes, step, turns, threads), at(out)));
               });
    module.def("characteristic_adjoint", [](int dtype, Address p, Sizes sizes, double step, Turns turns, Address grad,
                                            Address dp, int threads) {
        py::gil_scoped_release release;
        must(kernels<SigregKernels>().adjoint(problem(dtype, p, sizes, step, turns, threads), at(grad), at(dp)));
    });
    module.def("characteristic_statistic", [](int dtype, Address p, Sizes sizes, double step, Turns turns, double scale,
                                              Address dp, int threads) {
        double value;
        py::gil_scoped_release release;
        must(kernels<SigregKernels>().statistic(problem(dtype, p, sizes, step, turns, threads), scale, at(dp), &value));
        return value;
    });
    module.def("sigreg_distance", [](int dtype, Address z, std::array<int64_t, 3> sizes, double scale, Address dz,
                                     int threads) { // sizes: views, centred, positions
        double value;
        py::gil_scoped_release release;
        must(kernels<SigregKernels>().distance({dtype, at(z), sizes[0], sizes[1], sizes[2], threads}, scale, at(dz),
                                               &value));
        return value;
    });
});

} // namespace sslkernels
