// SPDX-License-Identifier: Apache-2.0
// The Python module sslkernels._C: pointers, sizes and strides in, nothing out. It links no torch, so that one build
// serves every torch version; the ops in sslkernels/ops allocate and check before they call.
#include "cpu/dispatch.h"
#include <new>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using namespace sslkernels;
using Address = uintptr_t;

static void *at(Address address) { return reinterpret_cast<void *>(address); }
static const int64_t *indices_at(Address address) { return reinterpret_cast<const int64_t *>(address); }

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
    if (!kernels().similarity_forward(problem, at(rows), at(columns), at(attended))) throw std::bad_alloc();
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
    if (!kernels().similarity_backward(problem, grad)) throw std::bad_alloc();
}

PYBIND11_MODULE(_C, module) {
    module.doc() = "Compiled CPU kernels of sslkernels. Private: call sslkernels.functional instead.";
    kernels(); // a wrong SSLKERNELS_ISA is an import error, not a surprise later
    module.def("isa", [] { return std::string(kernels().name); });
    module.def("available_isas", &available_isas);
    module.def("similarity_forward", &forward);
    module.def("similarity_backward", &backward);
    module.def("unit_rows_forward", [](int dtype, Address z, int64_t stride, int64_t n, int64_t d, int out_dtype,
                                       Address unit, Address norms, int threads) {
        py::gil_scoped_release release;
        kernels().unit_rows_forward(dtype, {at(z), stride, n}, d, out_dtype, at(unit), at(norms), threads);
    });
    module.def("unit_rows_backward", [](int dtype, Address unit, Address norms, Address grad, int64_t stride, int64_t n,
                                        int64_t d, int out_dtype, Address dz, int threads) {
        py::gil_scoped_release release;
        kernels().unit_rows_backward(dtype, at(unit), at(norms), {at(grad), stride, n}, d, out_dtype, at(dz), threads);
    });
    module.def("row_dot_forward", [](int dtype, Address x, int64_t x_stride, int64_t n, Address y, int64_t y_stride,
                                     int64_t m, int64_t d, int64_t shift, Address out, int threads) {
        py::gil_scoped_release release;
        kernels().row_dot_forward(dtype, {at(x), x_stride, n}, {at(y), y_stride, m}, d, shift, at(out), threads);
    });
    module.def("scale_rows", [](int dtype, Address y, int64_t y_stride, int64_t m, int64_t d, int64_t shift,
                                Address grad, int also, int64_t also_shift, int64_t n, Address out, int threads) {
        py::gil_scoped_release release;
        kernels().scale_rows(dtype, {at(y), y_stride, m}, d, shift, at(grad), also, also_shift, n, at(out), threads);
    });
}
