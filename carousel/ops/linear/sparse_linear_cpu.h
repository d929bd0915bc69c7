// SPDX-License-Identifier: Apache-2.0
// The kernels behind ops::linear for weights held as SparsePanels or SparseBlocks.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/weight/sparse_blocks.h"
#include "carousel/ops/weight/sparse_panels.h"

namespace carousel::ops {

/// One weight of the call.
struct SparsePart {
  const std::byte* steps;      // this and the next four: those of SparsePanels
  const int64_t* first_steps;  // [panels + 1]
  const int32_t* counts;       // [panels * 32]
  DType dtype;                 // f32, f16 or bf16
  bool wide;                   // columns are u32, not u16
  const float* bias;           // [rows], or null
  int64_t rows, first_col;     // outputs; column of y of the first
};

/// Each output is one chain of multiply-adds over its live weights, columns ascending, whatever N is; the bias last.
struct SparseLinearFwd {
  const float* x;  // [N, K]
  float* packed;   // [packed_count(N, K)] scratch; unused if N is 1
  const SparsePart* parts;
  int64_t part_count;
  int64_t N, K;
  float* y;  // [N, y_stride]
  int64_t y_stride;
};

/// One weight held as SparseBlocks.
struct SparseBlocksPart {
  const std::byte* bytes;      // the panels of SparseBlocks
  const int64_t* first_bytes;  // [panels + 1]
  const float* bias;           // [rows], or null
  int64_t rows, first_col;     // outputs; column of y of the first
};

/// Rows of x are rounded to 8 bits in blocks of 32, as for dense weights of `dtype` (q8 or q4), the type of all parts.
/// y has the bits that dense weights give.
struct SparseBlocksFwd {
  const float* x;  // [N, K]
  float* packed;   // [packed_count(N, K)] scratch
  const SparseBlocksPart* parts;
  int64_t part_count;
  DType dtype;
  int64_t N, K;
  float* y;  // [N, y_stride]
  int64_t y_stride;
};

}  // namespace carousel::ops

CPU_KERNEL(sparse_linear_fwd, carousel::ops::SparseLinearFwd);
CPU_KERNEL(sparse_blocks_fwd, carousel::ops::SparseBlocksFwd);
