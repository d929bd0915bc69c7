// SPDX-License-Identifier: Apache-2.0
// The shape and the cost of a call of a kernel, from its arguments.
#pragma once

#include <string>
#include <string_view>

#include "carousel/bench/costs.h"

namespace carousel::bench {

struct KernelCall {
  std::string shape;  // "N=1 K=2048 M=4096 q4"
  Cost cost;          // zeros: not known
};
/// `args` is what the watch of a stream is given with this name (OpWatch).
KernelCall describe_call(const Stream& stream, std::string_view op, const void* args);

}  // namespace carousel::bench
