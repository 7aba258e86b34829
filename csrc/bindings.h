// SPDX-License-Identifier: Apache-2.0
// Shared by every bindings.cpp: how it adds its functions to the Python module, and how it reads their arguments.
#pragma once
#include <array>
#include <cstdint>
#include <new>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace sslkernels {

namespace py = pybind11;
using Address = uintptr_t; // what Tensor.data_ptr() returns; 0 stands for absent

// A bindings.cpp adds its functions to the module by one object of this type at namespace scope.
struct Bindings {
    explicit Bindings(void (*add)(py::module_ &));
};

inline void *at(Address address) { return reinterpret_cast<void *>(address); }
inline const int64_t *indices_at(Address address) { return reinterpret_cast<const int64_t *>(address); }

// Kernels return false where there is no memory for their scratch.
inline void must(bool done) {
    if (!done) throw std::bad_alloc();
}

} // namespace sslkernels
