// SPDX-License-Identifier: Apache-2.0
// What a torch tensor is made of, read through DLPack's C exchange in tens of nanoseconds: no link to libtorch, and no
// attribute looked up in Python. A thousand pairs of tensors take less than their update that way.
#pragma once
#include <pybind11/pybind11.h>

namespace sslkernels {

// The pairs of an update as packed EmaPair, those without elements left out and the same pair once; None where one is
// not ordinary: not exactly one of the two types, of unlike shape, device or strides, with gaps, of a dtype that is no
// floating-point one of ours, or sharing memory with another target or its source.
pybind11::object ema_table(const pybind11::sequence &targets, const pybind11::sequence &sources,
                           const pybind11::sequence &masters, const pybind11::type &tensor,
                           const pybind11::type &parameter);

} // namespace sslkernels
