// SPDX-License-Identifier: Apache-2.0
// Models from features to features: checks, and their forward over Pass.
#include "carousel/model/regressor.h"

#include <cmath>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

// Values are checked here, once: a NaN would never leave the state of its sequence.
void check_values(const Tensor& x, const Tensor& elapsed) {
  const float* const values = x.f32();
  for (int64_t i = 0; i < x.count(); ++i) {
    if (std::isfinite(values[i])) continue;
    fail(ErrorKind::kInput, "features: row {}, column {} is {}, expected a finite number", i / x.dim(1), i % x.dim(1),
         values[i]);
  }
  if (!elapsed.defined()) return;
  const float* const times = elapsed.f32();
  for (int64_t n = 0; n < elapsed.count(); ++n) {
    if (times[n] >= 0 && std::isfinite(times[n])) continue;
    fail(ErrorKind::kInput, "elapsed times: row {} is {}, expected a finite number >= 0", n, times[n]);
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
  int64_t rows = 0;
  for (const int64_t length : lengths) rows += length;
  check_shape("predict", "x", x, {rows, regressor_.input_size()});
  check_dtype("predict", "x", x, DType::kF32);
  if (elapsed.defined()) {
    check_shape("predict", "elapsed", elapsed, {rows});
    check_dtype("predict", "elapsed", elapsed, DType::kF32);
  }
  check_values(x, elapsed);
  Memory& there = *pass_.stream().memory;
  const Tensor rows_there = x.to(there), elapsed_there = elapsed.defined() ? elapsed.to(there) : Tensor();
  const auto forward = [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) {
    return regressor_.forward(ctx, rows_there, seqs, bound);
  };
  return pass_.run(regressor_.state_layout(), states, lengths, elapsed_there, forward);
}

}  // namespace carousel::model
