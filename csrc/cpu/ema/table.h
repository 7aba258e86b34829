// SPDX-License-Identifier: Apache-2.0
// Reads the addresses, shapes and dtypes of torch tensors through DLPack's C exchange. A tensor takes tens of
// nanoseconds, with no link to libtorch and no attribute looked up in Python, so that a thousand pairs take less than
// their update.
#pragma once
#include <pybind11/pybind11.h>

namespace sslkernels {

// Returns the pairs of an update as packed EmaPair. Pairs without elements are left out, and equal pairs appear once.
// Returns None where a pair is not ordinary: a tensor is of neither of the two types, the two differ in shape, device
// or strides, the target has gaps, a dtype is not one of ours, or a target shares memory with another pair. The same
// pairs have the same object for as long as few others come in between.
pybind11::object ema_table(const pybind11::sequence &targets, const pybind11::sequence &sources,
                           const pybind11::sequence &masters, const pybind11::type &tensor,
                           const pybind11::type &parameter);

} // namespace sslkernels
