// SPDX-License-Identifier: Apache-2.0
// Sublayers built from a config, and their forward: x = x + block(norm(x)), the add and the next norm in one kernel.
#include "carousel/model/stack.h"

#include <fmt/format.h>

#include <utility>

#include "carousel/blocks/projection_wirings.h"
#include "carousel/core/error.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::model {
namespace {

ops::Norm make_norm(const NormConfig& config, Params p, int64_t hidden) {
  ops::Norm norm;
  norm.kind = config.kind;
  norm.eps = static_cast<float>(config.eps);
  if (config.kind == ops::Norm::Kind::kNone) return norm;
  norm.weight = p.tensor("weight", Shape{hidden}, Init::constant(config.weight_around_zero ? 0 : 1));
  norm.weight_offset = config.weight_around_zero ? 1 : 0;
  if (config.bias) norm.bias = p.tensor("bias", Shape{hidden}, Init::constant(0));
  return norm;
}

}  // namespace

Stack::Stack(const ModelConfig& config, const Params& params, const std::string& where) : width_(config.hidden_size) {
  for (const Sublayer& sublayer : config.sublayers) {
    const std::string here = fmt::format("{}: {}", where, sublayer.name);
    Json section = sublayer.options;
    blocks::ProjectionWirings wirings(section, here);
    Fields options(section, here);
    const blocks::Entry entry = blocks::find_block(sublayer.block, where);
    const Params p = params.in(sublayer.name);
    Residual residual;
    residual.norm = make_norm(sublayer.norm, p.in("norm"), width_);
    residual.block = entry.make({width_, config.num_layers, options}, p.wired(wirings));
    wirings.finish(options);
    options.finish();
    residual.adds = sublayer.residual;
    const int64_t out = residual.block->output_size() > 0 ? residual.block->output_size() : width_;
    if (residual.adds && out != width_) {
      fail(ErrorKind::kInput, "{}: \"{}\" gives rows of {}, expected {} to be added to its input", where, sublayer.name,
           out, width_);
    }
    width_ = out;
    residual.post_norm = make_norm(sublayer.post_norm, p.in("post_norm"), width_);
    const std::vector<StateSpec> specs = residual.block->state();
    residual.has_state = !specs.empty();
    for (const StateSpec& spec : specs) residual.fixed_counts.push_back(spec.per_token ? 0 : spec.shape.count());
    residual.first_state = layout_.add(std::to_string(sublayer.layer), specs);
    residuals_.push_back(std::move(residual));
  }
  out_norm_ = make_norm(config.final_norm, params.in("out_norm"), width_);
}

double Stack::cell_flops(int64_t rows, int64_t depth) const {
  double flops = 0;
  for (const Residual& residual : residuals_) flops += residual.block->cell_flops(rows, depth);
  return flops;
}

void Stack::round_states(Ctx& ctx, const Residual& residual, const StateBatch& states, const Seqs& seqs) {
  const LayerStates layer = states.layer(residual.first_state);
  for (size_t i = 0; i < residual.fixed_counts.size(); ++i) {
    const int64_t count = residual.fixed_counts[i];
    if (count > 0) ops::round_states(ctx, seqs, layer, i, count, ctx.numerics.states);
  }
}

Tensor Stack::forward(Ctx& ctx, Tensor x, const Seqs& seqs, const StateBatch* states) const {
  Tensor y;  // branch output not yet added to x
  size_t done = 0;
  for (const Residual& residual : residuals_) {
    const ops::AddNorm in = ops::add_norm(ctx, x, y, residual.norm);  // x + y and its norm, one kernel
    x = in.sum;
    if (ctx.observer != nullptr) ctx.observer->residual(done, x);
    ++done;
    const bool keeps = states != nullptr && residual.has_state;
    y = residual.block->forward(ctx, in.normed, seqs, keeps ? states->layer(residual.first_state) : LayerStates());
    if (residual.post_norm.kind != ops::Norm::Kind::kNone) y = ops::add_norm(ctx, y, {}, residual.post_norm).normed;
    if (!residual.adds) x = std::exchange(y, Tensor());
    if (keeps && ctx.numerics.states != DType::kF32) round_states(ctx, residual, *states, seqs);
  }
  const ops::AddNorm out = ops::add_norm(ctx, x, y, out_norm_);
  if (ctx.observer != nullptr) ctx.observer->residual(done, out.sum);
  return out.normed;
}

}  // namespace carousel::model
