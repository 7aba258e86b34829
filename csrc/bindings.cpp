// SPDX-License-Identifier: Apache-2.0
// The Python module sslkernels._C: pointers, sizes and strides in, nothing out. It links no torch, so that one build
// serves every torch version; the ops in sslkernels/ops allocate and check before they call.
#include "cpu/dispatch.h"
#include "cuda/launcher.h"
#include "tensors.h"
#include <array>
#include <cstring>
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

static Columns columns_at(Address rows, int64_t stride, int64_t n, int64_t d, Address mean, Address scale) {
    return {{at(rows), stride, n}, d, at(mean), at(scale)};
}
static double *doubles_at(Address address) { return static_cast<double *>(at(address)); }
static void must(bool done) {
    if (!done) throw std::bad_alloc();
}

static void add_correlation(py::module_ &module) {
    module.def("correlation_moments", [](int dtype, Address z0, int64_t stride0, Address z1, int64_t stride1, int64_t n,
                                         int64_t d, bool centre, Address mean, Address squares, Address products,
                                         Address gap, int threads) {
        py::gil_scoped_release release;
        must(kernels().correlation->moments(dtype, {at(z0), stride0, n}, {at(z1), stride1, n}, d, centre, at(mean),
                                            doubles_at(squares), doubles_at(products), doubles_at(gap), threads));
    });
    module.def("correlation_samples", [](int dtype, Address z, int64_t stride, int64_t n, int64_t d, Address mean,
                                         Address scale, int64_t first, int64_t count, Address out, int threads) {
        py::gil_scoped_release release;
        must(kernels().correlation->samples(dtype, columns_at(z, stride, n, d, mean, scale), first, count, at(out),
                                            threads));
    });
    module.def("correlation_features", [](int dtype, int compute, Address a, int64_t a_stride, Address a_mean,
                                          Address a_scale, Address b, int64_t b_stride, Address b_mean, Address b_scale,
                                          bool itself, int64_t n, int64_t d, Address out, int threads) {
        py::gil_scoped_release release;
        must(kernels().correlation->features(dtype, compute, columns_at(a, a_stride, n, d, a_mean, a_scale),
                                             columns_at(b, b_stride, n, d, b_mean, b_scale), itself, at(out), threads));
    });
    module.def("correlation_energies", [](int dtype, Address x, Address y, int64_t n, int64_t m, Address rows,
                                          Address columns, Address total, int threads) {
        py::gil_scoped_release release;
        must(kernels().correlation->energies(dtype, at(x), at(y), n, m, doubles_at(rows), doubles_at(columns),
                                             doubles_at(total), threads));
    });
    using Pair = std::array<Address, 2>;
    module.def("correlation_backward",
               [](int dtype, int compute, Pair z, std::array<int64_t, 2> strides, Pair mean, Pair scale, int64_t n,
                  int64_t d, int64_t first, int64_t count, bool samples, bool cross, Pair matrix, Address outer,
                  Address own, Address mixed, Address through, double pull, Pair out, int threads) {
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
                                              {at(out[0]), at(out[1])},
                                              threads};
                   py::gil_scoped_release release;
                   must(kernels().correlation->backward(grad));
               });
}

static void add_characteristic(py::module_ &module) {
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
                   must(kernels().characteristic->sums(problem(dtype, p, sizes, step, turns, threads), at(out)));
               });
    module.def("characteristic_adjoint", [](int dtype, Address p, Sizes sizes, double step, Turns turns, Address grad,
                                            Address dp, int threads) {
        py::gil_scoped_release release;
        must(kernels().characteristic->adjoint(problem(dtype, p, sizes, step, turns, threads), at(grad), at(dp)));
    });
}

static void add_tokens(py::module_ &module) {
    using Three = std::array<int64_t, 3>; // sets, batch, kept
    // An index that is none of the tokens there are is for the caller to name.
    static const auto right = [](int result) {
        must(result != kNoMemory);
        return result == kDone;
    };
    static const auto index_at = [](Address data, bool wide, const Three &shape) {
        return TokenIndex{at(data), wide, shape[0], shape[1], shape[2]};
    };
    module.def("tokens_gather", [](int dtype, Address x, int64_t sample_stride, int64_t row_stride, int64_t prefix,
                                   int64_t d, Address index, bool wide, Three shape, int64_t length, Address fill,
                                   Address pos, bool by_place, int to, Address out, int threads) {
        py::gil_scoped_release release;
        return right(kernels().tokens->gather({dtype, at(x), sample_stride, row_stride, prefix, d},
                                              index_at(index, wide, shape), length, at(fill), at(pos), by_place, to,
                                              at(out), threads));
    });
    module.def("tokens_collect", [](int dtype, Address x, int64_t sample_stride, int64_t row_stride, int64_t prefix,
                                    int64_t d, Address index, bool wide, Three shape, int64_t length, Address fill,
                                    bool strict, int to, Address out, int threads) {
        py::gil_scoped_release release;
        return right(kernels().tokens->collect({dtype, at(x), sample_stride, row_stride, prefix, d},
                                               index_at(index, wide, shape), length, at(fill), strict, to, at(out),
                                               threads));
    });
    module.def("tokens_sums", [](int dtype, Address x, int64_t sample_stride, int64_t row_stride, int64_t d,
                                 Address index, bool wide, Three shape, int64_t length, Address out, int threads) {
        py::gil_scoped_release release;
        right(kernels().tokens->sums({dtype, at(x), sample_stride, row_stride, 0, d}, index_at(index, wide, shape),
                                     length, at(out), threads));
    });
    module.def("tokens_ranks", [](Address keys, int64_t batch, int64_t length, int64_t keep, Address ids_keep,
                                  Address ids_restore, Address mask, int threads) {
        py::gil_scoped_release release;
        right(kernels().tokens->ranks(at(keys), batch, length, keep, at(ids_keep), at(ids_restore), at(mask), threads));
    });
    module.def("tokens_patches", [](int dtype, Address images, int64_t channels, int64_t down, int64_t across,
                                    int64_t patch, Address index, bool wide, Three shape, Address out, int threads) {
        py::gil_scoped_release release;
        return right(kernels().tokens->patches(dtype, at(images), channels, down, across, patch,
                                               index_at(index, wide, shape), at(out), threads));
    });
    module.def("tokens_errors", [](int dtype, int target_dtype, Address pred, Address target, Address weights,
                                   int64_t rows, int64_t d, int norm, double beta, Address errors, Address moments,
                                   int threads) {
        py::gil_scoped_release release;
        kernels().tokens->errors({dtype, target_dtype, at(pred), at(target), at(weights), rows, d, norm, beta, threads},
                                 at(errors), at(moments));
    });
    module.def("tokens_errors_backward",
               [](int dtype, int target_dtype, Address pred, Address target, Address scales, int64_t rows, int64_t d,
                  int norm, double beta, Address moments, Address dpred, int threads) {
                   py::gil_scoped_release release;
                   kernels().tokens->errors_backward(
                       {dtype, target_dtype, at(pred), at(target), at(scales), rows, d, norm, beta, threads},
                       at(moments), at(dpred));
               });
}

static void add_ema(py::module_ &module) {
    module.def("ema_table", &ema_table);
    module.def("ema_update", [](const py::bytes &table, double momentum, int threads) {
        const std::string_view pairs = table;
        py::gil_scoped_release release;
        kernels().ema->update(reinterpret_cast<const EmaPair *>(pairs.data()), int64_t(pairs.size() / sizeof(EmaPair)),
                              momentum, threads);
    });
    module.def("ema_enqueue",
               [](int queue_dtype, Address queue, int64_t queue_stride, int64_t size, int keys_dtype, Address keys,
                  int64_t keys_stride, int64_t count, int64_t d, int64_t start, int threads) {
                   py::gil_scoped_release release;
                   kernels().ema->enqueue(queue_dtype, at(queue), queue_stride, size, keys_dtype,
                                          {at(keys), keys_stride, count}, d, start, threads);
               });
}

static void add_cuda(py::module_ &module) {
    // A field of a kernel's struct: an address or a whole number, or a double.
    static const auto field = [](py::handle value) {
        uint64_t bits;
        if (py::isinstance<py::float_>(value)) {
            const auto number = value.cast<double>();
            std::memcpy(&bits, &number, sizeof bits);
        } else {
            bits = static_cast<uint64_t>(value.cast<int64_t>());
        }
        return bits;
    };
#ifdef SSLK_CUDA_VERSION
    module.attr("CUDA_VERSION") = SSLK_CUDA_VERSION; // of the compiler of the shipped images, as 13000
#else
    module.attr("CUDA_VERSION") = 0;
#endif
    module.def("cuda_driver_version", &cuda::driver_version);
    module.def("cuda_load", [](const py::bytes &image) { return Address(cuda::load(image)); });
    module.def("cuda_kernel",
               [](Address library, const std::string &name) { return Address(cuda::kernel(at(library), name)); });
    module.def("cuda_launch", [](Address kernel, int device, Address stream, std::array<unsigned, 2> blocks,
                                 std::array<unsigned, 2> threads, const py::tuple &values) {
        std::vector<uint64_t> fields;
        for (const py::handle value : values) fields.push_back(field(value));
        cuda::launch(at(kernel), device, at(stream), blocks, threads, std::move(fields));
    });
}

PYBIND11_MODULE(_C, module) {
    module.doc() =
        "Compiled kernels of sslkernels, and what launches those of CUDA. Private: call sslkernels.functional instead.";
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
    module.def("row_cosine_forward", [](int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int64_t n,
                                        int64_t d, double eps, Address cosines, Address norms, int threads) {
        py::gil_scoped_release release;
        kernels().row_cosine_forward({dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, eps, threads}, at(cosines),
                                     at(norms));
    });
    module.def("row_cosine_backward", [](int dtype, Address x, int64_t x_stride, Address y, int64_t y_stride, int64_t n,
                                         int64_t d, double eps, Address cosines, Address norms, Address grad,
                                         int64_t grad_stride, Address dx, Address dy, int threads) {
        py::gil_scoped_release release;
        kernels().row_cosine_backward({dtype, {at(x), x_stride, n}, {at(y), y_stride, n}, d, eps, threads},
                                      {at(cosines), at(norms), at(grad), grad_stride, at(dx), at(dy)});
    });
    add_correlation(module);
    add_characteristic(module);
    add_tokens(module);
    add_ema(module);
    add_cuda(module);
}
