// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of elementwise gates.
#pragma once

#include "carousel/ops/gate/gate.h"
#include "carousel/ops/kernel.h"

namespace carousel::ops {

struct GatedUnitArgs {
  View gate_up;         // [N, 2F]
  View out;             // [N, F]
  int64_t rows, width;  // N, F
  Activation activation = Activation::kSilu;
  DType gates = DType::kF32, product = DType::kF32;  // what the activation and the product are rounded to
};
struct SoftCapArgs {
  View x;    // [count]
  View out;  // [count]; may be x
  int64_t count;
  float cap;
  DType dtype = DType::kF32;  // what each operation's result is rounded to
};
struct GateHeadsArgs {
  View x, out;    // [N, H*d]
  View gate_pre;  // [N, H]
  int64_t rows, heads, dim;
  DType gates = DType::kF32, product = DType::kF32;  // what the sigmoid and the product are rounded to
};
struct ElementwiseArgs {
  View x, y, out;  // [count]; relu has no y
  int64_t count;
};
struct ReluBackwardArgs {
  View x, d, d_x;  // [rows, width]; d_x is written
  int64_t rows, width;
};
struct GatedUnitBackwardArgs {
  View gate_up;         // [N, 2F]
  View d;               // [N, F]
  View d_gate_up;       // [N, 2F] written
  int64_t rows, width;  // N, F
  Activation activation;
};
struct SoftCapBackwardArgs {
  View capped;  // [N, D] the result of soft_cap
  View d, d_x;  // [N, D]; d_x is written
  int64_t rows, width;
  float cap;
};
struct GateHeadsBackwardArgs {
  View x, d;        // [N, H*d]
  View gate_pre;    // [N, H]
  View d_x;         // [N, H*d] written; null: not wanted
  View d_gate_pre;  // [N, H] written; null: not wanted
  int64_t rows, heads, dim;
};

}  // namespace carousel::ops

KERNEL(gated_unit, ops::GatedUnitArgs);
KERNEL(soft_cap, ops::SoftCapArgs);
KERNEL(gate_heads, ops::GateHeadsArgs);
KERNEL(relu, ops::ElementwiseArgs);
KERNEL(add, ops::ElementwiseArgs);
CPU_KERNEL(relu_backward, ops::ReluBackwardArgs);
CPU_KERNEL(gated_unit_backward, ops::GatedUnitBackwardArgs);
CPU_KERNEL(soft_cap_backward, ops::SoftCapBackwardArgs);
CPU_KERNEL(gate_heads_backward, ops::GateHeadsBackwardArgs);
