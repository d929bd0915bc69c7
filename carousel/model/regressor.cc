// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/regressor.h"

#include <cmath>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

// Checked here once: a NaN would stay in the state of its sequence for good.
void check_values(const Tensor& x, const Tensor& elapsed) {
  for (int64_t i = 0; i < x.count(); ++i) {
    if (std::isfinite(x.f32()[i])) continue;
    fail(ErrorKind::kInput, "features: row {}, column {} is {}, expected a finite number", i / x.dim(1), i % x.dim(1),
         x.f32()[i]);
  }
  for (int64_t n = 0; elapsed.defined() && n < elapsed.count(); ++n) {
    if (elapsed.f32()[n] >= 0 && std::isfinite(elapsed.f32()[n])) continue;
    fail(ErrorKind::kInput, "elapsed times: row {} is {}, expected a finite number >= 0", n, elapsed.f32()[n]);
  }
}

}  // namespace

Regressor::Regressor(const ModelConfig& config, ParamSource& source, const std::string& where)
    : input_size_(config.hidden_size), stack_(config, Params(source, ""), where) {}

Tensor Regressor::forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, const StateBatch* states) const {
  return stack_.forward(ctx, x, seqs, states);
}

Tensor Predictor::forward(const Tensor& x, const Tensor& elapsed, std::span<State* const> states,
                          std::span<const int64_t> lengths) {
  CAROUSEL_ASSERT(states.size() == lengths.size());
  seqs_.offsets.assign(1, 0);
  seqs_.pos.clear();
  for (size_t s = 0; s < states.size(); ++s) {
    CAROUSEL_ASSERT(lengths[s] >= 0);
    seqs_.offsets.push_back(seqs_.offsets.back() + lengths[s]);
    seqs_.pos.push_back(states[s]->pos());
  }
  check_shape("predict", "x", x, {seqs_.rows(), regressor_.input_size()});
  check_dtype("predict", "x", x, DType::kF32);
  if (elapsed.defined()) {
    check_shape("predict", "elapsed", elapsed, {seqs_.rows()});
    check_dtype("predict", "elapsed", elapsed, DType::kF32);
  }
  check_values(x, elapsed);
  seqs_.dt = elapsed;
  Ctx ctx{stream_, arena_, numerics_};
  states_.bind(regressor_.state_layout(), states, lengths);
  Tensor y = regressor_.forward(ctx, x, seqs_, &states_);
  states_.advance(lengths);
  states_.unbind();
  seqs_.dt = Tensor();
  return y;
}

}  // namespace carousel::model
