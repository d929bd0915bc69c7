// SPDX-License-Identifier: Apache-2.0
// Gated units for the kernels whose results they are.
#pragma once

#include "carousel/ops/gate/gate_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// out = activation(gate) * up, [count] each; out may be one of the others.
void gate_values(ops::Activation activation, const float* gate, const float* up, float* out, int64_t count);

}  // namespace carousel::cpu::CAROUSEL_ISA
