// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"

namespace sslkernels {

static Attention attention_of(int dtype, Address queries, int64_t query_stride, int64_t n, Address keys,
                              int64_t key_stride, Address values, int64_t value_stride, int64_t m, int64_t d,
                              int64_t dv, double scale, Address bias, Address exclude, int64_t excluded, int threads) {
    return {dtype,
            {at(queries), query_stride, n},
            {at(keys), key_stride, m},
            {at(values), value_stride, m},
            d,
            dv,
            scale,
            at(bias),
            indices_at(exclude),
            excluded,
            threads};
}

static const Bindings bindings([](py::module_ &module) {
    module.def("attention_forward", [](int dtype, Address queries, int64_t query_stride, int64_t n, Address keys,
                                       int64_t key_stride, Address values, int64_t value_stride, int64_t m, int64_t d,
                                       int64_t dv, double scale, Address bias, Address exclude, int64_t excluded,
                                       Address out, Address lse, int threads) {
        const Attention problem = attention_of(dtype, queries, query_stride, n, keys, key_stride, values, value_stride,
                                               m, d, dv, scale, bias, exclude, excluded, threads);
        py::gil_scoped_release release;
        must(kernels<AttentionKernels>().forward(problem, {at(out), at(lse)}));
    });
    module.def("attention_backward", [](int dtype, Address queries, int64_t query_stride, int64_t n, Address keys,
                                        int64_t key_stride, Address values, int64_t value_stride, int64_t m, int64_t d,
                                        int64_t dv, double scale, Address bias, Address exclude, int64_t excluded,
                                        Address out, Address lse, Address grad, std::array<Address, 4> wanted,
                                        int threads) {
        const Attention problem = attention_of(dtype, queries, query_stride, n, keys, key_stride, values, value_stride,
                                               m, d, dv, scale, bias, exclude, excluded, threads);
        const auto &[moved_queries, moved_keys, dvalues, dbias] = wanted;
        py::gil_scoped_release release;
        must(kernels<AttentionKernels>().backward(
            problem, {at(out), at(lse), at(grad), at(moved_queries), at(moved_keys), at(dvalues), at(dbias)}));
    });
});

} // namespace sslkernels
