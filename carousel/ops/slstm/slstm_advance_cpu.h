// SPDX-License-Identifier: Apache-2.0
// slstm_advance() on vectors. The forward and the backward share it, bit for bit.
#pragma once

#include "carousel/cpu/vec_math.h"
#include "carousel/ops/slstm/slstm_advance.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using Cell = ops::SlstmCell<VecMath>;
using Advanced = ops::SlstmAdvanced<VecMath>;

CAROUSEL_INLINE Advanced advance(const Cell& old, Vec raw_i, Vec raw_f, Vec raw_z, Vec raw_o, Vec f_gate_max) {
  return ops::slstm_advance(old, raw_i, raw_f, raw_z, raw_o, f_gate_max);
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
