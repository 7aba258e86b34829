// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static Columns columns_at(Address rows, int64_t stride, int64_t n, int64_t d, Address mean, Address scale) {
    return {{at(rows), stride, n}, d, at(mean), at(scale)};
}
static double *doubles_at(Address address) { return static_cast<double *>(at(address)); }

static const Bindings bindings([](py::module_ &module) {
    module.def("correlation_moments",
               [](int dtype, Address z0, int64_t stride0, Address z1, int64_t stride1, int64_t n, int64_t d,
                  bool centre, Address mean, Address squares, Address products, Address gap, int threads) {
                   py::gil_scoped_release release;
                   must(kernels<CorrelationKernels>().moments(dtype, {at(z0), stride0, n}, {at(z1), stride1, n}, d,
                                                              centre, at(mean), doubles_at(squares),
                                                              doubles_at(products), doubles_at(gap), threads));
               });
    module.def("correlation_samples", [](int dtype, Address z, int64_t stride, int64_t n, int64_t d, Address mean,
                                         Address scale, int64_t first, int64_t count, Address out, int threads) {
        py::gil_scoped_release release;
        must(kernels<CorrelationKernels>().samples(dtype, columns_at(z, stride, n, d, mean, scale), first, count,
                                                   at(out), threads));
    });
    module.def("correlation_features", [](int dtype, int compute, Address a, int64_t a_stride, Address a_mean,
                                          Address a_scale, Address b, int64_t b_stride, Address b_mean, Address b_scale,
                                          bool itself, int64_t n, int64_t d, Address out, int threads) {
        py::gil_scoped_release release;
        must(kernels<CorrelationKernels>().features(dtype, compute, columns_at(a, a_stride, n, d, a_mean, a_scale),
                                                    columns_at(b, b_stride, n, d, b_mean, b_scale), itself, at(out),
                                                    threads));
    });
    module.def("correlation_energies", [](int dtype, Address x, Address y, int64_t n, int64_t m, Address rows,
                                          Address columns, Address total, int threads) {
        py::gil_scoped_release release;
        must(kernels<CorrelationKernels>().energies(dtype, at(x), at(y), n, m, doubles_at(rows), doubles_at(columns),
                                                    doubles_at(total), threads));
    });
    using Pair = std::array<Address, 2>;
    module.def("correlation_backward",
               [](int dtype, int compute, Pair z, std::array<int64_t, 2> strides, Pair mean, Pair scale, int64_t n,
                  int64_t d, int64_t first, int64_t count, bool samples, bool cross, Pair matrix, Address outer,
                  Address own, Address mixed, Address through, double pull, bool widened, Pair out, int threads) {
                   const CorrelationGrad grad{dtype,
                                              compute,
                                              {columns_at(z[0], strides[0], n, d, mean[0], scale[0]),
                                               columns_at(z[1], strides[1], n, d, mean[1], scale[1])},
                                              first,
                                              count,
                                              samples,
                                              cross,
                                              {at(matrix[0]), at(matrix[1])},
                                              at(outer),
                                              at(own),
                                              at(mixed),
                                              at(through),
                                              pull,
                                              widened,
                                              {at(out[0]), at(out[1])},
                                              threads};
                   py::gil_scoped_release release;
                   must(kernels<CorrelationKernels>().backward(grad));
               });
    module.def("correlation_loss",
               [](int dtype, int compute, Pair z, std::array<int64_t, 2> strides, int64_t n, int64_t d, int energy,
                  bool samples, bool standardised, bool unbiased, bool outside, double eps, double agreement,
                  double gap, double hinge, double hinge_eps, double off, int64_t power, Address value, Pair gradients,
                  int threads) {
                   const CorrelationLoss loss{dtype,
                                              compute,
                                              {{at(z[0]), strides[0], n}, {at(z[1]), strides[1], n}},
                                              d,
                                              energy,
                                              samples,
                                              standardised,
                                              unbiased,
                                              outside,
                                              eps,
                                              agreement,
                                              gap,
                                              hinge,
                                              hinge_eps,
                                              off,
                                              power,
                                              at(value),
                                              {at(gradients[0]), at(gradients[1])},
                                              threads};
                   py::gil_scoped_release release;
                   must(kernels<CorrelationKernels>().loss(loss));
               });
});

} // namespace sslkernels
