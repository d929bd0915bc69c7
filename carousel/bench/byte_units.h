// SPDX-License-Identifier: Apache-2.0
// Sizes in units that people read.
#pragma once

#include <string>

namespace carousel::bench {

/// "128.25 MiB"
std::string in_binary_units(double bytes);

}  // namespace carousel::bench
