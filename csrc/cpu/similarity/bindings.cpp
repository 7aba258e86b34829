// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static void forward(int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride, int64_t m,
                    bool itself, int64_t d, double scale, Address exclude, int64_t excluded, Address kept,
                    int64_t kept_bytes, Address rows, Address columns, Address attended, int threads) {
    const Similarity problem{dtype,
                             {at(x), x_stride, n},
                             {at(y), y_stride, m},
                             itself,
                             d,
                             scale,
                             indices_at(exclude),
                             excluded,
                             at(kept),
                             kept_bytes,
                             threads};
    py::gil_scoped_release release;
    must(kernels<SimilarityKernels>().forward(problem, at(rows), at(columns), at(attended)));
}

static void backward(int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride, int64_t m,
                     bool itself, int64_t d, double scale, Address exclude, int64_t excluded, Address kept,
                     int64_t kept_bytes, Address rows, Address rows_grad, Address columns, Address columns_grad,
                     Address dx, Address dy, Address dscale, int threads) {
    const Similarity problem{dtype,
                             {at(x), x_stride, n},
                             {at(y), y_stride, m},
                             itself,
                             d,
                             scale,
                             indices_at(exclude),
                             excluded,
                             at(kept),
                             kept_bytes,
                             threads};
    const SimilarityGrad grad{at(rows), at(rows_grad), at(columns), at(columns_grad), at(dx), at(dy), at(dscale)};
    py::gil_scoped_release release;
    must(kernels<SimilarityKernels>().backward(problem, grad));
}

static const Bindings bindings([](py::module_ &module) {
    module.def("similarity_forward", &forward);
    module.def("similarity_backward", &backward);
});

} // namespace sslkernels
