// SPDX-License-Identifier: Apache-2.0
// The output of bench --kernels.
#pragma once

#include <vector>

#include "carousel/bench/kernels.h"
#include "carousel/core/json.h"

namespace carousel::cli {

/// Every op of every test, the longest first.
Json kernel_lines(const std::vector<bench::KernelTimes>& tests);
/// The ten longest of each test, and the others together.
void print_kernel_lines(const Json& lines);

}  // namespace carousel::cli
