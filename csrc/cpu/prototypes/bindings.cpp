// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../dtypes.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Size = std::array<int64_t, 2>; // rows, prototypes
    static const auto table = [](int dtype, Address products, Size size, double scale, int threads) {
        return Table{dtype, at(products), size[0], size[1], scale, threads};
    };
    module.def("prototypes_multiply", [](Address rows, int64_t row_stride, Address weight, int64_t weight_stride,
                                         int64_t d, Address products, Size size, int threads) {
        py::gil_scoped_release release;
        must(kernels<PrototypeKernels>().multiply(table(kFloat32, products, size, 1, threads),
                                                  {at(rows), row_stride, size[0]}, {at(weight), weight_stride, size[1]},
                                                  d));
    });
    module.def("prototypes_soften",
               [](int dtype, Address products, Size size, double scale, Address bias, int threads) {
                   py::gil_scoped_release release;
                   kernels<PrototypeKernels>().soften(table(dtype, products, size, scale, threads), at(bias));
               });
    module.def("prototypes_compare",
               [](int dtype, Address products, Size size, double scale, Address softmax, Address index, Address share,
                  int64_t each, int gradients, Address losses, Address slopes, int threads) {
                   py::gil_scoped_release release;
                   kernels<PrototypeKernels>().compare(table(dtype, products, size, scale, threads),
                                                       {at(softmax), indices_at(index), at(share), each},
                                                       Gradients(gradients), at(losses), at(slopes));
               });
    module.def("prototypes_columns", [](int dtype, Address products, Size size, double scale, Address weights,
                                        Address peaks, Address totals, int threads) {
        py::gil_scoped_release release;
        kernels<PrototypeKernels>().columns(table(dtype, products, size, scale, threads), at(weights), at(peaks),
                                            at(totals));
    });
    module.def("prototypes_spread", [](int dtype, Address products, Size size, double scale, Address weights,
                                       Address bias, Address mass, int threads) {
        py::gil_scoped_release release;
        must(kernels<PrototypeKernels>().spread(table(dtype, products, size, scale, threads), {at(weights), at(bias)},
                                                at(mass)));
    });
});

} // namespace sslkernels
