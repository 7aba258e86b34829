// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    module.def("unit_rows_forward", [](int dtype, Address z, int64_t stride, int64_t n, int64_t d, int out_dtype,
                                       Address unit, Address norms, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().unit_forward(dtype, {at(z), stride, n}, d, out_dtype, at(unit), at(norms), threads);
    });
    module.def("unit_rows_backward", [](int dtype, Address unit, Address norms, Address grad, int64_t stride, int64_t n,
                                        int64_t d, int out_dtype, Address dz, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().unit_backward(dtype, at(unit), at(norms), {at(grad), stride, n}, d, out_dtype, at(dz),
                                            threads);
    });
    module.def("row_dot_forward", [](int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride,
                                     int64_t m, int64_t d, int64_t shift, Address out, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().dot_forward(dtype, {at(x), x_stride, n}, {at(y), y_stride, m}, d, shift, at(out),
                                          threads);
    });
    module.def("scale_rows", [](int dtype, Address y, int64_t y_stride, int64_t m, int64_t d, int64_t shift,
                                Address grad, int also, int64_t also_shift, int64_t n, Address out, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().scale(dtype, {at(y), y_stride, m}, d, shift, at(grad), also, also_shift, n, at(out),
                                    threads);
    });
    module.def("row_cosine_forward", [](int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int64_t n,
                                        int64_t d, double eps, Address cosines, Address norms, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().cosine_forward({dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, eps, threads},
                                             at(cosines), at(norms));
    });
    module.def("row_cosine_backward", [](int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int64_t n,
                                         int64_t d, double eps, Address cosines, Address norms, Address grad,
                                         int64_t grad_stride, Address dx, Address dy, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().cosine_backward({dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, eps, threads},
                                              {at(cosines), at(norms), at(grad), grad_stride, at(dx), at(dy)});
    });
    module.def("row_cosine_loss", [](int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int64_t n,
                                     int64_t d, double eps, double offset, double weight, double share, Address value,
                                     Address dx, Address dy, int threads) {
        py::gil_scoped_release release;
        kernels<RowKernels>().cosine_loss({dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, eps, threads},
                                          {offset, weight, share, at(value), at(dx), at(dy)});
    });
});

} // namespace sslkernels
