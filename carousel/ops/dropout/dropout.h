// SPDX-License-Identifier: Apache-2.0
// Dropout (Srivastava et al. 2014): while a model is trained, a share of the elements that enter the residual stream is
// zero, others in every step.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/ops/ctx.h"

namespace carousel::ops {

/// Dropout decides which elements of a batch become zero. It knows an element by the seed, by its row and place in the
/// run's data, by the sublayer and by its column. So neither threads nor neighbours in the batch nor the cut of a step
/// into micro-batches change a bit, and a resumed run drops what the uninterrupted one does.
struct Dropout {
  float share = 0;    // of elements that are dropped, 0 < share < 1
  uint64_t seed = 0;  // of the run
  /// Rows of the batch that follow each other in a row of the data.
  struct Span {
    int64_t begin;  // the first of them; the next span's begin ends them
    int64_t row;    // the number of the row of the data in the run, which tells steps and epochs apart; below 2^48
    int64_t place;  // where in that row the first of them lies
  };
  std::vector<Span> spans;  // ascending; the first begins at 0
};

/// x [N, D] f32 with a share of its elements zero and the others divided by 1 - share.
///   sublayer: what x is the output of, below 2^16
/// Philox gives 32 bits for each element. `how` outlives the tape. Throws kShape. N may be 0.
Tensor dropout(Ctx& ctx, const Tensor& x, const Dropout& how, int64_t sublayer);

}  // namespace carousel::ops
