// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    using Three = std::array<int64_t, 3>; // sets, batch, kept
    // Returns false for an index out of range, which the caller names in its error.
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
        return right(kernels<TokenKernels>().gather({dtype, at(x), sample_stride, row_stride, prefix, d},
                                                    index_at(index, wide, shape), length, at(fill), at(pos), by_place,
                                                    to, at(out), threads));
    });
    module.def("tokens_collect", [](int dtype, Address x, int64_t sample_stride, int64_t row_stride, int64_t prefix,
                                    int64_t d, Address index, bool wide, Three shape, int64_t length, Address fill,
                                    bool strict, int to, Address out, int threads) {
        py::gil_scoped_release release;
        return right(kernels<TokenKernels>().collect({dtype, at(x), sample_stride, row_stride, prefix, d},
                                                     index_at(index, wide, shape), length, at(fill), strict, to,
                                                     at(out), threads));
    });
    module.def("tokens_sums", [](int dtype, Address x, int64_t sample_stride, int64_t row_stride, int64_t d,
                                 Address index, bool wide, Three shape, int64_t length, Address out, int threads) {
        py::gil_scoped_release release;
        right(kernels<TokenKernels>().sums({dtype, at(x), sample_stride, row_stride, 0, d},
                                           index_at(index, wide, shape), length, at(out), threads));
    });
    module.def("tokens_ranks", [](Address keys, int64_t batch, int64_t length, int64_t keep, Address ids_keep,
                                  Address ids_restore, Address mask, int threads) {
        py::gil_scoped_release release;
        right(kernels<TokenKernels>().ranks(at(keys), batch, length, keep, at(ids_keep), at(ids_restore), at(mask),
                                            threads));
    });
    module.def("tokens_patches", [](int dtype, Address images, int64_t channels, int64_t down, int64_t across,
                                    int64_t patch, Address index, bool wide, Three shape, Address out, int threads) {
        py::gil_scoped_release release;
        return right(kernels<TokenKernels>().patches(dtype, at(images), channels, down, across, patch,
                                                     index_at(index, wide, shape), at(out), threads));
    });
    module.def("tokens_masked_error", [](int dtype, Address pred, int64_t sample_stride, int64_t row_stride,
                                         int target_dtype, Address target, int64_t target_sample_stride,
                                         int64_t target_row_stride, Address weights, int64_t samples, int64_t tokens,
                                         int64_t d, int norm, double beta, double grad, Address value, Address dpred,
                                         int threads) {
        py::gil_scoped_release release;
        kernels<TokenKernels>().masked_error({{dtype, at(pred), sample_stride, row_stride, 0, d},
                                              {target_dtype, at(target), target_sample_stride, target_row_stride, 0, d},
                                              at(weights),
                                              samples,
                                              tokens,
                                              norm,
                                              beta,
                                              grad,
                                              threads},
                                             at(value), at(dpred));
    });
});

} // namespace sslkernels
