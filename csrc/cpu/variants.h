// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "kernels.h"
#include <string>
#include <vector>

namespace sslkernels {
const Kernels &kernels();                  // the variant in use
std::vector<std::string> available_isas(); // what this processor can run, slowest first
} // namespace sslkernels
