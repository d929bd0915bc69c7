// SPDX-License-Identifier: Apache-2.0
// What the kernel of the look-up is called with.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/tokens/embedding.h"

namespace carousel::ops {

struct EmbeddingArgs {
  const int32_t* tokens;  // [N], each in [0, V)
  const Weight* table;    // [V, D]
  View x;                 // [N, D]
  int64_t rows, width;    // N, D
};

}  // namespace carousel::ops

COMPOSITE(embedding, ops::EmbeddingArgs);
