// SPDX-License-Identifier: Apache-2.0
// Loads compiled device code and launches its kernels through the CUDA driver. The first call looks for the driver, so
// that a build needs no CUDA and runs where there is none. A refusal of the driver is a std::runtime_error.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace sslkernels::cuda {

// Returns 13000 for CUDA 13.0, and 0 where there is no driver.
int driver_version();

// These return handles. They serve until the process ends, and are never freed.
void *load(const std::string &image);
void *kernel(void *library, const std::string &name);

// Launches a kernel that takes one struct of 8-byte fields. As many fields as it has must come.
void launch(void *kernel, int device, void *stream, std::array<unsigned, 2> blocks, std::array<unsigned, 2> threads,
            std::vector<uint64_t> fields);

} // namespace sslkernels::cuda
