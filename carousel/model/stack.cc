// SPDX-License-Identifier: Apache-2.0
// Sublayers built from a config, and their forward: x = x + block(norm(x)), the add and the next norm in one kernel.
#include "carousel/model/stack.h"

#include <fmt/format.h>

#include <utility>

#include "carousel/blocks/projection_wirings.h"
#include "carousel/core/error.h"
#include "carousel/ops/dropout/dropout.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/tape.h"

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

Tensor Stack::after_norm(Ctx& ctx, const Residual& residual, const Tensor& normed, const Rows& rows) {
  const Tensor y = residual.block->forward(ctx, normed, rows.seqs, rows.states);
  return residual.post_norm.kind == ops::Norm::Kind::kNone ? y : ops::add_norm(ctx, y, {}, residual.post_norm).normed;
}

Tensor Stack::branch(Ctx& ctx, const Residual& residual, const Tensor& x, const Rows& rows) {
  return after_norm(ctx, residual, ops::add_norm(ctx, x, {}, residual.norm).normed, rows);
}

/// A copy of every fixed state tensor. Those in pages are undefined: a forward writes its own rows of them alone.
std::vector<Tensor> Stack::keep_states(Ctx& ctx, const Residual& residual, const Rows& rows) {
  std::vector<Tensor> kept;
  if (rows.states.empty()) return kept;
  for (size_t i = 0; i < residual.fixed_counts.size(); ++i) {
    const int64_t count = residual.fixed_counts[i];
    kept.push_back(count > 0 ? keep_state(ctx, rows.seqs, rows.states, i, count) : Tensor());
  }
  return kept;
}

void Stack::restore_states(Ctx& ctx, const std::vector<Tensor>& kept, const Rows& rows) {
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i].defined()) restore_state(ctx, kept[i], rows.states, i);
  }
}

/// Runs without a tape, and records one node that keeps x and the states that were read. The node runs the branch again
/// under a tape of its own: the same kernels on the same numbers. Where x needs no gradient, which is so of the first
/// branch that is trained alone, the ops record.
Tensor Stack::recomputed_branch(Ctx& ctx, const Residual& residual, const Tensor& x, const Rows& rows) {
  // Features of the batch are no activation (id 0), and have no gradient. On meta, where every tensor without an id
  // counts as a master, needs() does not tell.
  if (x.id() == 0 || !ctx.tape->needs(x)) return branch(ctx, residual, x, rows);
  const std::vector<Tensor> before = keep_states(ctx, residual, rows);
  Ctx untaped = ctx;
  untaped.tape = nullptr;
  const Tensor y = branch(untaped, residual, x, rows);
  if (y.count() == 0) return y;
  const auto backward = [&residual, &trained = ctx.tape->trained(), x, seqs = rows.seqs, states = rows.states, before](
                            Ctx& inner, std::span<const Tensor> d, Grads& grads) {
    const Rows again = {seqs, states};
    const std::vector<Tensor> after = keep_states(inner, residual, again);  // a later forward may have replaced them
    restore_states(inner, before, again);
    Tape tape(trained);
    tape.watch(x);
    Ctx taped = inner;
    taped.tape = &tape;
    Grads within(tape, grads.d_states());
    within.give(inner, branch(taped, residual, x, again), d[0]);
    restore_states(inner, after, again);
    tape.backward(inner, within);
    if (const Tensor d_x = within.take(inner, x); d_x.defined()) grads.give(inner, x, d_x);
  };
  ctx.tape->record_needed(ctx, "model::Stack", {y}, backward, rows.states);
  return y;
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
  const bool recompute = ctx.tape != nullptr && ctx.tape->recompute();
  const ops::Dropout* const dropout = ctx.tape != nullptr ? ctx.tape->dropout() : nullptr;
  ops::Norm none;
  none.kind = ops::Norm::Kind::kNone;
  for (const Residual& residual : residuals_) {
    const bool keeps = states != nullptr && residual.has_state;
    const Rows rows = {seqs, keeps ? states->layer(residual.first_state) : LayerStates()};
    const ops::AddNorm in =
        ops::add_norm(ctx, x, y, recompute ? none : residual.norm);  // x + y and its norm, one kernel
    x = in.sum;
    if (ctx.observer != nullptr) ctx.observer->residual(done, x);
    ++done;
    y = recompute ? recomputed_branch(ctx, residual, x, rows) : after_norm(ctx, residual, in.normed, rows);
    if (residual.adds && dropout != nullptr) y = ops::dropout(ctx, y, *dropout, static_cast<int64_t>(done));
    if (!residual.adds) x = std::exchange(y, Tensor());
    if (keeps && ctx.numerics.states != DType::kF32) round_states(ctx, residual, *states, seqs);
  }
  const ops::AddNorm out = ops::add_norm(ctx, x, y, out_norm_);
  if (ctx.observer != nullptr) ctx.observer->residual(done, out.sum);
  return out.normed;
}

}  // namespace carousel::model
