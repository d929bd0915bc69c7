// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernel of the LTC cell.
#pragma once

#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/cells/ltc.h"
#include "carousel/ops/kernel.h"

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
  CellKept kept;
  void* workspace;  // scratch memory of ltc_workspace bytes
};

/// Where the gradients of S sources onto N neurons are added, [S, N] as the masters lie, or null; and what leads from
/// the packed values to the masters.
struct LtcSynapseBackwardArgs {
  float *d_w, *d_mu, *d_sigma, *d_erev;
  const float* mask;   // [S, N]; where it is zero, no gradient changes
  const float* slope;  // [S, N] of the constraint of w
  const float* erev;   // [S, N]
};

/// d_x is written. Gradients of synapses and membranes are added to in the order of the sequences, as one sum of each.
/// Those of the input's and the output's map, and of the memory, are one chain over the rows.
struct LtcBackwardArgs {
  LtcArgs forward;  // its inputs; y and the states are not read
  View d;           // [rows, M]
  View d_x;         // [rows, I], or null
  CellHistory history;
  CellBatch batch;  // the gradients of the states, replaced in place; or null
  LtcSynapseBackwardArgs sensory, recurrent;
  float *d_cm, *d_gleak, *d_vleak;      // [N], or null
  const float *cm_slope, *gleak_slope;  // [N] of their constraints
  const float* vleak;                   // [N]
  float *d_input_w, *d_input_b;         // [I], or null
  float *d_output_w, *d_output_b;       // [M], or null
  float* d_memory;                      // packed, or null
  void* workspace;                      // scratch memory of ltc_backward_workspace bytes
};

}  // namespace carousel::ops

KERNEL_WITH_WORKSPACE(ltc, ops::LtcArgs);
CPU_KERNEL_WITH_WORKSPACE(ltc_backward, ops::LtcBackwardArgs);
