// SPDX-License-Identifier: Apache-2.0
// Muon (Jordan et al. 2024, as torch.optim.Muon has it): the update of a matrix is its momentum, made orthogonal by
// five Newton-Schulz steps. SGD with momentum is here too.
#pragma once

#include <cstdint>

#include "carousel/ops/ctx.h"

namespace carousel::ops {

struct Muon {
  float lr = 0.02f;
  float momentum = 0.95f;
  float decay = 0.1f;    // decoupled: w becomes w (1 - lr decay) first
  float grad_scale = 1;  // gradients are multiplied by this: clipping
};

/// One matrix [rows, cols] in flat f32 arrays, its first element at `first` in each of them.
struct MuonMatrix {
  const Tensor &masters, &gradients, &momentum;
  int64_t first, rows, cols;
};

/// One step, in f32, with the engine's own products:
///   m = m + (1 - momentum) (g - m);  u = g + momentum (m - g);  X = u / max(|u|, 1e-7)
///   five times: A = X X^T, X = a X + (b A + c A A) X with (a, b, c) = (3.4445, -4.7750, 2.0315); of a matrix with more
///   rows than columns X is the transpose
///   w = w (1 - lr decay) - lr sqrt(max(1, rows / cols)) X
/// Every element of a product is one chain of multiply-adds: the threads change no bit.
void muon(Ctx& ctx, const Muon& options, const MuonMatrix& matrix);

struct Sgd {
  float lr = 0.1f;
  float momentum = 0.9f;
  float decay = 0;       // decoupled, as above
  float grad_scale = 1;  // gradients are multiplied by this: clipping
};

/// Elements first to first + count of flat f32 arrays.
struct SgdArrays {
  const Tensor &masters, &gradients, &momentum;
  int64_t first, count;
};
/// One step: m = momentum m + g;  w = w (1 - lr decay) - lr m.
void sgd(const Stream& stream, const Sgd& options, const SgdArrays& arrays);

}  // namespace carousel::ops
