// SPDX-License-Identifier: Apache-2.0
// Compiled device code, loaded and launched by the CUDA driver, which is looked for when the first of these is called:
// a build needs no CUDA, and runs where there is none. What the driver refuses is a std::runtime_error.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace sslkernels::cuda {

// 13000 for CUDA 13.0; 0 where there is no driver.
int driver_version();

// Handles, never freed: they serve until the process ends.
void *load(const std::string &image);
void *kernel(void *library, const std::string &name);

// The kernel takes one struct of 8-byte fields.
void launch(void *kernel, int device, void *stream, std::array<unsigned, 2> blocks, std::array<unsigned, 2> threads,
            std::vector<uint64_t> fields);

} // namespace sslkernels::cuda
