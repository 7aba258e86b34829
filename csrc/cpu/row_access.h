// SPDX-License-Identifier: Apache-2.0
// Describes rows of a matrix in memory, and finds one of them.
#pragma once
#include <stdint.h>

namespace sslkernels {

struct Rows { // stride counts elements
    const void *data;
    int64_t stride, count;
};

} // namespace sslkernels

namespace {

using sslkernels::Rows;

template <class T> inline const T *row(const Rows &rows, int64_t i) {
    return static_cast<const T *>(rows.data) + i * rows.stride;
}

} // namespace
