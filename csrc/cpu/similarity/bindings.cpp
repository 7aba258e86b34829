// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

// The pairs of rows and what is left out of them, in the order of the fields of Similarity.
using Given = std::tuple<int, Address, int64_t, int64_t, Address, int64_t, int64_t, bool, int64_t, double, Address,
                         int64_t, std::array<int64_t, 4>, Address, Address, Address, bool>;

static Similarity similarity_of(const Given &given, int threads) {
    const auto [dtype, x, x_stride, n, y, y_stride, m, itself, d, scale, exclude, excluded, on, bias, rows, columns,
                alike] = given;
    return {dtype,
            {at(x), x_stride, n},
            {at(y), y_stride, m},
            itself,
            d,
            scale,
            indices_at(exclude),
            excluded,
            {on[0], on[1], on[2], on[3]},
            at(bias),
            indices_at(rows),
            indices_at(columns),
            alike,
            threads};
}

static const Bindings bindings([](py::module_ &module) {
    module.def("similarity_forward",
               [](const Given &given, Address rows, Address columns, Address attended, int threads) {
                   const Similarity problem = similarity_of(given, threads);
                   py::gil_scoped_release release;
                   must(kernels<SimilarityKernels>().forward(problem, at(rows), at(columns), at(attended)));
               });
    module.def("similarity_backward", [](const Given &given, std::array<Address, 4> sums, Address moved_x,
                                         Address moved_y, Address of_bias, int threads) {
        const Similarity problem = similarity_of(given, threads);
        const auto &[rows, rows_grad, columns, columns_grad] = sums;
        py::gil_scoped_release release;
        must(kernels<SimilarityKernels>().backward(problem, {at(rows), at(rows_grad), at(columns), at(columns_grad)},
                                                   at(moved_x), at(moved_y), at(of_bias)));
    });
    module.def("similarity_weigh", [](int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride,
                                      int64_t d, double scale, Address rows, Address columns, double share,
                                      Address row_weights, Address column_weights, Address pull, int threads) {
        double value, of_scale;
        {
            py::gil_scoped_release release;
            kernels<SimilarityKernels>().weigh(
                {dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, 0, scale, threads}, at(rows), at(columns), share,
                {at(row_weights), at(column_weights), at(pull)}, &value, &of_scale);
        }
        return py::make_tuple(value, of_scale);
    });
    module.def("similarity_finish",
               [](int dtype, Address x, int64_t x_stride, int64_t n, int64_t d, Address moved, Address partners,
                  int64_t partners_stride, Address pull, Address norms, double scale, Address out, int threads) {
                   double of_scale;
                   {
                       py::gil_scoped_release release;
                       kernels<SimilarityKernels>().finish({dtype,
                                                            {at(x), x_stride, n},
                                                            at(moved),
                                                            d,
                                                            d,
                                                            {at(partners), partners_stride, n},
                                                            at(pull),
                                                            at(norms),
                                                            scale,
                                                            threads},
                                                           at(out), &of_scale);
                   }
                   return of_scale;
               });
    module.def("similarity_kept_bytes", [](int against, int compute, int64_t n, int64_t m, int64_t d, int threads) {
        return kernels<SimilarityKernels>().kept_bytes(against, compute, n, m, d, threads);
    });
    module.def("similarity_contrast", [](int against, int dtype, int compute, Address x, int64_t x_stride, Address y,
                                         int64_t y_stride, int64_t n, Address negatives, int64_t negatives_stride,
                                         int64_t m, int64_t d, double scale, bool unit, bool frozen, double share,
                                         int64_t most_kept, Address value, std::array<Address, 4> gradients,
                                         int threads) {
        const Contrast problem{against,
                               dtype,
                               compute,
                               {at(x), x_stride, n},
                               {at(y), y_stride, n},
                               {at(negatives), negatives_stride, m},
                               d,
                               scale,
                               unit,
                               frozen,
                               share,
                               most_kept,
                               threads};
        const auto &[dx, dy, dnegatives, dscale] = gradients;
        py::gil_scoped_release release;
        must(kernels<SimilarityKernels>().contrast(problem, {at(value), at(dx), at(dy), at(dnegatives), at(dscale)}));
    });
});

} // namespace sslkernels
