// SPDX-License-Identifier: Apache-2.0
// Each function makes the case of one op of `bench --op`.
#pragma once

#include "carousel/bench/op_work.h"

namespace carousel::bench {

/// A size, or what stands for 0.
inline int64_t chosen(int64_t value, int64_t otherwise) { return value > 0 ? value : otherwise; }

/// A case of this cost whose operands exist so often that no cache holds them.
inline OpCase case_of(const Shapes& shapes, const Cost& cost) {
  OpCase result;
  static_cast<Cost&>(result) = cost;
  result.ring = ring_of(cost.read_bytes + cost.written_bytes, shapes.memory());
  return result;
}

OpCase cfc_case(const Shapes& shapes);           // cell_cases.cc
OpCase ltc_case(const Shapes& shapes);           // cell_cases.cc
OpCase gated_unit_case(const Shapes& shapes);    // row_cases.cc
OpCase block_linear_case(const Shapes& shapes);  // row_cases.cc
OpCase moe_case(const Shapes& shapes);           // row_cases.cc
OpCase soft_cap_case(const Shapes& shapes);      // row_cases.cc
OpCase gate_heads_case(const Shapes& shapes);    // row_cases.cc
OpCase head_norm_case(const Shapes& shapes);     // row_cases.cc
OpCase embedding_case(const Shapes& shapes);     // token_cases.cc
OpCase head_case(const Shapes& shapes);          // token_cases.cc

}  // namespace carousel::bench
