// SPDX-License-Identifier: Apache-2.0
// What ops::embedding calls.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/tokens/embedding.h"

namespace carousel::ops {

struct EmbeddingArgs {
  const int32_t* tokens;  // [N]
  const Weight* table;    // [V, D]
  View x;                 // [N, D]
  int64_t rows;
};

}  // namespace carousel::ops

COMPOSITE(embedding, ops::EmbeddingArgs);
