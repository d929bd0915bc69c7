// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of dropout, which is its own backward.
#pragma once

#include "carousel/ops/columns.h"
#include "carousel/ops/dropout/dropout.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct DropoutArgs {
  View x, out;  // [N, D]
  int64_t N, D;
  const Dropout::Span* spans;  // [span_count]
  int64_t span_count;
  uint64_t seed;
  int64_t sublayer;
  uint32_t bound;  // an element is dropped where its random bits are below this
  float scale;     // of the others
};

}  // namespace carousel::ops

CPU_KERNEL(dropout, carousel::ops::DropoutArgs);
