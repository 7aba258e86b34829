// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Strides = std::array<int64_t, 2>; // from row to row, and from problem to problem
    using Sizes = std::array<int64_t, 6>;   // problems, rows of x, rows of y, features, excluded, k
    module.def("neighbours_topk",
               [](int dtype, int metric, Address x, Strides x_strides, Address y, Strides y_strides, bool itself,
                  Address bias, Address exclude, Sizes sizes, Address values, Address indices, int threads) {
                   const auto &[batch, n, m, d, excluded, k] = sizes;
                   const Search problem{dtype,
                                        metric,
                                        batch,
                                        {at(x), x_strides[0], n},
                                        {at(y), y_strides[0], m},
                                        x_strides[1],
                                        y_strides[1],
                                        itself,
                                        d,
                                        k,
                                        at(bias),
                                        indices_at(exclude),
                                        excluded,
                                        threads};
                   py::gil_scoped_release release;
                   must(kernels<NeighboursKernels>().topk(problem, at(values), static_cast<int64_t *>(at(indices))));
               });
});

} // namespace sslkernels
