// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the LTC cell.
#pragma once

#include "carousel/cpu/kernel.h"
#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/cells/ltc.h"

namespace carousel::ops {

struct LtcSynapseArgs {
  const float *w, *we, *mu, *sigma;  // [S, Np]
  const int32_t* begin;              // [groups + 1]
  const int32_t* sources;
};
struct LtcArgs {
  View x;                // [rows, I]
  View y;                // [rows, M]
  const float* input_w;  // [I] or null
  const float* input_b;
  const float* output_w;  // [M] or null
  const float* output_b;
  const float *cm, *gleak, *gvleak;  // [Np]
  LtcSynapseArgs sensory, recurrent;
  CellMapArgs memory;
  int64_t inputs, units, outputs, unfolds;
  float epsilon;
  float step;  // time of one unfold; 0: dt / K
  Numerics::Solver solver;
  CellBatch batch;
  void* workspace;  // scratch memory of ltc_workspace bytes
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(ltc, ops::LtcArgs);
