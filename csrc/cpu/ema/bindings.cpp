// SPDX-License-Identifier: Apache-2.0
#include "../../bindings.h"
#include "../variants.h"
#include "kernels.h"
#include "table.h"

namespace sslkernels {

static const Bindings bindings([](py::module_ &module) {
    module.def("ema_table", &ema_table);
    module.def("ema_update", [](const py::bytes &table, double momentum, int threads) {
        const std::string_view pairs = table;
        py::gil_scoped_release release;
        kernels<EmaKernels>().update(reinterpret_cast<const EmaPair *>(pairs.data()),
                                     int64_t(pairs.size() / sizeof(EmaPair)), momentum, threads);
    });
    module.def("ema_enqueue",
               [](int queue_dtype, Address queue, int64_t queue_stride, int64_t size, int keys_dtype, Address keys,
                  int64_t keys_stride, int64_t count, int64_t d, int64_t start, int threads) {
                   py::gil_scoped_release release;
                   kernels<EmaKernels>().enqueue(queue_dtype, at(queue), queue_stride, size, keys_dtype,
                                                 {at(keys), keys_stride, count}, d, start, threads);
               });
});

} // namespace sslkernels
