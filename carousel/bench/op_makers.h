// SPDX-License-Identifier: Apache-2.0
// Each function makes the case of one op of `bench --op`.
#pragma once

#include "carousel/bench/op_work.h"

namespace carousel::bench {

constexpr double kF32 = sizeof(float);
constexpr double kSigmoid = 20;  // operations that a sigmoid or tanh counts as

/// A size, or what stands for 0.
inline int64_t chosen(int64_t value, int64_t otherwise) { return value > 0 ? value : otherwise; }

OpCase cfc_case(const Shapes& shapes);           // cell_cases.cc
OpCase ltc_case(const Shapes& shapes);           // cell_cases.cc
OpCase gated_unit_case(const Shapes& shapes);    // row_cases.cc
OpCase block_linear_case(const Shapes& shapes);  // row_cases.cc
OpCase moe_case(const Shapes& shapes);           // row_cases.cc

}  // namespace carousel::bench
