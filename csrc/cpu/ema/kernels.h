// SPDX-License-Identifier: Apache-2.0
// Declares the kernels of teachers and queues and their arguments. Strides count elements.
#pragma once
#include "../row_access.h"

namespace sslkernels {

struct EmaPair {                      // one tensor of a teacher and its student's, each as flat memory
    uintptr_t target, source, master; // master is float32, or 0 for none
    int64_t count, dtypes;            // dtypes: the target's + 256 times the source's
    int target_dtype() const { return int(dtypes & 255); }
    int source_dtype() const { return int(dtypes >> 8); }
    bool operator==(const EmaPair &other) const {
        return target == other.target && source == other.source && master == other.master && count == other.count &&
               dtypes == other.dtypes;
    }
};

struct EmaKernels {
    void (*update)(const EmaPair *pairs, int64_t count, double momentum, int threads);
    // queue[(start + i) mod size] <- keys[i], which are rows of d
    void (*enqueue)(int queue_dtype, void *queue, int64_t queue_stride, int64_t size, int keys_dtype, Rows keys,
                    int64_t d, int64_t start, int threads);
};

} // namespace sslkernels
