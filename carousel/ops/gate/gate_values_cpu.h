// SPDX-License-Identifier: Apache-2.0
// Gated units for kernels that compute them from their own sums.
#pragma once

#include "carousel/ops/gate/gate_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// out = activation(gate) * up, [count] each; out may be gate or up.
void gate_values(ops::Activation activation, const float* gate, const float* up, float* out, int64_t count);

}  // namespace carousel::cpu::CAROUSEL_ISA
