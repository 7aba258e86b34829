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
    module.def("prototypes_compare",
               [](int dtype, Address student, int64_t student_stride, Address weight, int64_t weight_stride, int64_t d,
                  Address teacher, int64_t teacher_stride, Address teacher_weight, int64_t teacher_weight_stride,
                  int64_t teacher_d, std::array<int64_t, 3> size, double scale, double teacher_scale, Address bias,
                  Address index, Address share, int64_t each, int64_t most, int64_t kept, Address value,
                  Address dstudent, Address dweight, Address dscale, int threads) {
                   py::gil_scoped_release release;
                   const auto [rows, prototypes, teachers] = size;
                   must(kernels<PrototypeKernels>().compare({dtype,
                                                             {at(student), student_stride, rows},
                                                             {at(weight), weight_stride, prototypes},
                                                             {at(teacher), teacher_stride, teachers},
                                                             {at(teacher_weight), teacher_weight_stride, prototypes},
                                                             d,
                                                             teacher_d,
                                                             scale,
                                                             teacher_scale,
                                                             at(bias),
                                                             indices_at(index),
                                                             at(share),
                                                             each,
                                                             most,
                                                             kept,
                                                             threads},
                                                            {at(value), at(dstudent), at(dweight), at(dscale)}));
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
