// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the cross entropy.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/tokens/cross_entropy.h"

namespace carousel::ops {

struct CrossEntropyArgs {
  View logits;             // [N, V]
  const int32_t* targets;  // [N], each in [0, V)
  View nll;                // [N]
  int64_t rows, vocab;     // N, V
};

}  // namespace carousel::ops

KERNEL(cross_entropy, ops::CrossEntropyArgs);
