// SPDX-License-Identifier: Apache-2.0
// What the kernel of the look-up is called with.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/tokens/embedding.h"

namespace carousel::ops {

struct EmbeddingArgs {
  const int32_t* tokens;  // [N], each in [0, V)
  const Weight* table;    // [V, D]
  View x;                 // [N, D]
  int64_t rows, width;    // N, D
};

/// Row tokens[n] of the table's gradient += row n of d_x, row after row, but for the token `padding`.
struct EmbeddingBackwardArgs {
  const int32_t* tokens;  // [rows]
  View d_x;               // [rows, D]
  float* d_table;         // [V, D]
  int64_t rows, D;
  int64_t padding;  // negative: none
};

}  // namespace carousel::ops

COMPOSITE(embedding, ops::EmbeddingArgs);
CPU_KERNEL(embedding_backward, carousel::ops::EmbeddingBackwardArgs);
