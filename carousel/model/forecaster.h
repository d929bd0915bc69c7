// SPDX-License-Identifier: Apache-2.0
// The network of a patch forecaster, TiRex's (arXiv:2505.23719): a residual MLP from patch to token, a stack, a
// residual MLP from token to the quantiles of the next patch. Scaling and rollout are forecast/tirex.
#pragma once

#include <string>

#include "carousel/model/stack.h"

namespace carousel::model {

/// y = W_out relu(W_hid x + b_hid) + b_out + W_res x + b_res.
class ResidualMlp {
 public:
  ResidualMlp(Params p, int64_t in, int64_t hidden, int64_t out);
  Tensor forward(Ctx& ctx, const Tensor& x) const;  // x [N, in] -> [N, out]

 private:
  Weight hidden_;    // [hidden, in], with bias
  Weight output_;    // [out, hidden], with bias
  Weight residual_;  // [out, in], with bias
};

class Forecaster {
 public:
  /// Throws Error(kInput) from the config's options or the parameter source. `where` names the config in messages.
  Forecaster(const ModelConfig& config, ParamSource& source, const std::string& where);

  /// tokens [N, 2P] (P scaled values, then P flags: 1 where there is a value, else 0) -> [N, Q * P], level after level.
  Tensor forward(Ctx& ctx, const Tensor& tokens, const Seqs& seqs, const StateBatch* states) const;

  const StateLayout& state_layout() const { return stack_.state_layout(); }
  const PatchConfig& patches() const { return patches_; }

 private:
  PatchConfig patches_;
  ResidualMlp input_;
  Stack stack_;
  ResidualMlp output_;
};

}  // namespace carousel::model
