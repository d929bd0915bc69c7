// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/forecaster.h"

#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::model {

ResidualMlp::ResidualMlp(Params p, int64_t in, int64_t hidden, int64_t out)
    : hidden_(p.projection("hidden_layer", hidden, in, Init::small(in), true)),
      output_(p.projection("output_layer", out, hidden, Init::small(hidden), true)),
      residual_(p.projection("residual_layer", out, in, Init::small(in), true)) {}

Tensor ResidualMlp::forward(Ctx& ctx, const Tensor& x) const {
  const Tensor hidden = ops::relu(ctx, ops::linear(ctx, x, {&hidden_}));
  const Tensor y = ops::linear(ctx, hidden, {&output_});
  return ops::add(ctx, y, ops::linear(ctx, x, {&residual_}));
}

Forecaster::Forecaster(const ModelConfig& config, ParamSource& source, const std::string& where)
    : patches_(config.patches),
      input_(Params(source, "input."), 2 * patches_.patch, patches_.hidden, config.hidden_size),
      stack_(config, Params(source, ""), where),
      output_(Params(source, "output."), config.hidden_size, patches_.hidden,
              patches_.patch * static_cast<int64_t>(patches_.quantiles.size())) {}

Tensor Forecaster::forward(Ctx& ctx, const Tensor& tokens, const Seqs& seqs, const StateBatch* states) const {
  return output_.forward(ctx, stack_.forward(ctx, input_.forward(ctx, tokens), seqs, states));
}

}  // namespace carousel::model
