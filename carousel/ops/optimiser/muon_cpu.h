// SPDX-License-Identifier: Apache-2.0
// The arguments of the kernels of Muon and SGD.
#pragma once

#include "carousel/ops/kernel.h"
#include "carousel/ops/optimiser/muon.h"

namespace carousel::ops {

/// m += (1 - momentum) (g - m);  u = g + momentum (m - g), with g scaled.
struct MuonUpdateArgs {
  const float* g;
  float *m, *u;
  int64_t count;
  float momentum, grad_scale;
};

/// out = a x + b y.
struct BlendArgs {
  const float *x, *y;  // [count]
  float* out;          // [count]; may be x or y
  int64_t count;
  float a, b;
};

/// to [cols, rows] = the transpose of from [rows, cols].
struct TransposeArgs {
  const float* from;
  float* to;
  int64_t rows, cols;
};

/// Five Newton-Schulz steps on x [L, S], L >= S, whose norm is at most 1.
struct OrthogonaliseArgs {
  float* x;  // [L, S], replaced
  int64_t L, S;
  void* workspace = nullptr;
};

struct SgdArgs {
  float* w;
  const float* g;
  float* m;
  int64_t count;
  float keep;  // 1 - lr decay
  float lr, momentum, grad_scale;
};

}  // namespace carousel::ops

CPU_KERNEL(muon_update, ops::MuonUpdateArgs);
CPU_KERNEL(blend, ops::BlendArgs);
CPU_KERNEL(transpose_matrix, ops::TransposeArgs);
CPU_KERNEL(sgd, ops::SgdArgs);
CPU_COMPOSITE_WITH_WORKSPACE(orthogonalise, carousel::ops::OrthogonaliseArgs);
