// SPDX-License-Identifier: Apache-2.0
// LTC cells: the constraints of their parameters, checks, and the call of the kernel.
#include "carousel/ops/cells/ltc.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "carousel/ops/cells/cell_record.h"
#include "carousel/ops/cells/ltc_cpu.h"
#include "carousel/ops/packing.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

LtcSynapseArgs synapse_args(const LtcSynapses& synapses) {
  return {values_of(synapses.w),     values_of(synapses.we), values_of(synapses.mu),
          values_of(synapses.sigma), synapses.begin.data(),  synapses.sources.data()};
}

// P, then the bounds.
float constrained(float raw, bool implicit, const Numerics::Range& range) {
  const auto x = static_cast<double>(raw);
  const double value = !implicit ? x : x > 30 ? x : std::log1p(std::exp(x));
  return static_cast<float>(std::clamp(value, range.low, range.high));
}

// The slope of constrained() at raw; 0 where a bound holds the value.
float constraint_slope(float raw, bool implicit, const Numerics::Range& range) {
  const auto x = static_cast<double>(raw);
  const double value = !implicit ? x : x > 30 ? x : std::log1p(std::exp(x));
  if (value < range.low || value > range.high) return 0.0f;
  return implicit ? static_cast<float>(1 / (1 + std::exp(-x))) : 1.0f;
}

}  // namespace

LtcCell::LtcCell(LtcParams params, const Numerics::Ltc& numerics)
    : inputs(params.sensory.w.dim(0)),
      units(params.cm.dim(0)),
      outputs(units),
      sensory(params.sensory),
      recurrent(params.recurrent),
      params_(std::move(params)),
      numerics_(numerics) {
  for (Tensor* row : {&cm, &gleak, &gvleak}) {
    *row = Tensor(Shape{cell_pad(units)}, DType::kF32, params_.cm.memory());
  }
}

void LtcCell::pack(const Stream& /*stream*/) const {
  const bool implicit = numerics_.implicit.value_or(params_.implicit);
  const auto weights = [&](float raw) { return constrained(raw, implicit, numerics_.w); };
  sensory.pack(params_.sensory, weights);
  recurrent.pack(params_.recurrent, weights);
  if (cm.raw() == nullptr) return;
  const Packing capacitance(cm), leak(gleak), leak_current(gvleak);
  for (const Packing* row : {&capacitance, &leak, &leak_current}) {
    std::fill_n(row->f32(), cm.count(), 1.0f);  // columns beyond the neurons stay finite
  }
  const Tensor raw_cm = params_.cm.to_host(), raw_gleak = params_.gleak.to_host(), vleak = params_.vleak.to_host();
  for (int64_t j = 0; j < units; ++j) {
    capacitance.f32()[j] = constrained(raw_cm.f32()[j], implicit, numerics_.cm);
    leak.f32()[j] = constrained(raw_gleak.f32()[j], implicit, numerics_.gleak);
    leak_current.f32()[j] = leak.f32()[j] * vleak.f32()[j];
  }
  for (const Packing* row : {&capacitance, &leak, &leak_current}) row->finish();
}

LtcCell LtcCell::under(const Stream& stream, const Numerics::Ltc& numerics) const {
  LtcCell cell = *this;
  const LtcCell fresh(params_, numerics);  // storage of its own
  cell.numerics_ = numerics;
  cell.cm = fresh.cm;
  cell.gleak = fresh.gleak;
  cell.gvleak = fresh.gvleak;
  cell.sensory = fresh.sensory;
  cell.recurrent = fresh.recurrent;
  cell.pack(stream);
  return cell;
}

LtcSlopes LtcCell::slopes(Ctx& ctx) const {
  const bool implicit = numerics_.implicit.value_or(params_.implicit);
  const auto of = [&](const Tensor& raw, const Numerics::Range& range) {
    const Tensor slopes = ctx.arena.empty(raw.shape());
    for (int64_t i = 0; slopes.raw() != nullptr && i < raw.count(); ++i) {
      slopes.f32()[i] = constraint_slope(raw.f32()[i], implicit, range);
    }
    return slopes;
  };
  return {of(params_.cm, numerics_.cm), of(params_.gleak, numerics_.gleak), of(params_.sensory.w, numerics_.w),
          of(params_.recurrent.w, numerics_.w)};
}

LtcSynapses::LtcSynapses(const LtcSynapseParams& params) {
  const int64_t count = params.w.dim(0), units = params.w.dim(1), padded = cell_pad(units);
  for (Tensor* tensor : {&w, &we, &mu, &sigma}) *tensor = Tensor(Shape{count, padded}, DType::kF32, params.w.memory());
  if (w.raw() == nullptr) return;
  const Tensor mask = params.mask.to_host();
  begin.push_back(0);
  for (int64_t j = 0; j < padded; j += kCellPad) {
    for (int64_t i = 0; i < count; ++i) {
      bool reaches = false;
      for (int64_t k = j; k < j + kCellPad && k < units; ++k) reaches |= mask.f32()[i * units + k] != 0;
      if (reaches) sources.push_back(static_cast<int32_t>(i));
    }
    begin.push_back(static_cast<int32_t>(sources.size()));
  }
}

void LtcSynapses::pack(const LtcSynapseParams& params, const std::function<float(float)>& constrain) const {
  const int64_t count = params.w.dim(0), units = params.w.dim(1), padded = cell_pad(units);
  if (w.raw() == nullptr) return;
  const Tensor mask = params.mask.to_host(), raw_w = params.w.to_host(), erev = params.erev.to_host();
  const Tensor raw_mu = params.mu.to_host(), raw_sigma = params.sigma.to_host();
  const Packing weights(w), currents(we), midpoints(mu), slopes(sigma);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < units; ++j) {
      const int64_t from = i * units + j, to = i * padded + j;
      weights.f32()[to] = mask.f32()[from] != 0 ? constrain(raw_w.f32()[from]) : 0.0f;
      currents.f32()[to] = weights.f32()[to] * erev.f32()[from];
      midpoints.f32()[to] = raw_mu.f32()[from];
      slopes.f32()[to] = raw_sigma.f32()[from];
    }
  }
  for (const Packing* packed : {&weights, &currents, &midpoints, &slopes}) packed->finish();
}

namespace {

constexpr const char* kWhere = "ops::ltc";

/// What both directions are told of a cell.
LtcArgs shared_args(const Tensor& x, const LtcCell& cell, const Seqs& seqs, const Numerics::Ltc& numerics) {
  LtcArgs args = {};
  args.x = view(x);
  args.input_w = values_of(cell.input_w);
  args.input_b = values_of(cell.input_b);
  args.output_w = values_of(cell.output_w);
  args.output_b = values_of(cell.output_b);
  args.cm = values_of(cell.cm);
  args.gleak = values_of(cell.gleak);
  args.gvleak = values_of(cell.gvleak);
  args.sensory = synapse_args(cell.sensory);
  args.recurrent = synapse_args(cell.recurrent);
  args.memory = map_args(cell.memory);
  args.inputs = cell.inputs;
  args.units = cell.units;
  args.outputs = cell.outputs;
  args.unfolds = numerics.unfolds.value_or(cell.unfolds);
  args.epsilon = static_cast<float>(numerics.epsilon.value_or(cell.epsilon));
  args.step = static_cast<float>(numerics.step.value_or(0));
  args.solver = numerics.solver;
  args.batch = {seqs.view(), nullptr, nullptr};
  return args;
}

/// A forward that ran, as its backward needs it.
struct Forward {
  Tensor x;
  LtcCell cell;
  Seqs seqs;
  LayerStates states;
  CellRecord record;
};

/// A trained parameter of the cell; empty where there is none.
Tensor trained_parameter(const LtcCell& cell, const Tape& tape) {
  Tensor found = cell.memory.trained(tape);
  const LtcParams& masters = cell.masters();
  for (const Tensor* master :
       {&masters.gleak, &masters.vleak, &masters.cm, &cell.input_w, &cell.input_b, &cell.output_w, &cell.output_b}) {
    if (tape.needs(*master)) found = *master;
  }
  for (const LtcSynapseParams* synapses : {&masters.sensory, &masters.recurrent}) {
    for (const Tensor* master : {&synapses->w, &synapses->mu, &synapses->sigma, &synapses->erev}) {
      if (tape.needs(*master)) found = *master;
    }
  }
  return found;
}

LtcSynapseBackwardArgs synapse_backward_args(const LtcSynapseParams& masters, const Tensor& slope, const Grads& grads) {
  return {grads.parameter(masters.w),
          grads.parameter(masters.mu),
          grads.parameter(masters.sigma),
          grads.parameter(masters.erev),
          masters.mask.f32(),
          slope.f32(),
          masters.erev.f32()};
}

void ltc_backward(Ctx& ctx, const Forward& forward, const Tensor& d, Grads& grads) {
  const LtcCell& cell = forward.cell;
  const LtcParams& masters = cell.masters();
  const LtcSlopes slopes = cell.slopes(ctx);
  const Tensor d_memory = cell.memory.gradient(ctx, grads);
  LtcBackwardArgs args = {};
  args.forward = shared_args(forward.x, cell, forward.seqs, ctx.numerics.ltc);
  args.d = view(d);
  if (grads.wants(forward.x)) args.d_x = view(grads.write(ctx, columns(forward.x)));
  args.history = forward.record.history();
  args.batch = cell_batch(forward.seqs, grads.states(forward.states), cell.memory.defined());
  args.sensory = synapse_backward_args(masters.sensory, slopes.sensory_w, grads);
  args.recurrent = synapse_backward_args(masters.recurrent, slopes.recurrent_w, grads);
  args.d_cm = grads.parameter(masters.cm);
  args.d_gleak = grads.parameter(masters.gleak);
  args.d_vleak = grads.parameter(masters.vleak);
  args.cm_slope = slopes.cm.f32();
  args.gleak_slope = slopes.gleak.f32();
  args.vleak = masters.vleak.f32();
  args.d_input_w = grads.parameter(cell.input_w);
  args.d_input_b = grads.parameter(cell.input_b);
  args.d_output_w = grads.parameter(cell.output_w);
  args.d_output_b = grads.parameter(cell.output_b);
  if (d_memory.defined()) args.d_memory = d_memory.f32();
  const Tensor workspace = ctx.workspace(kernels::ltc_backward_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::ltc_backward(ctx.stream, args);
  cell.memory.replace_gradient(grads, d_memory);
}

}  // namespace

Tensor ltc(Ctx& ctx, const Tensor& x, const LtcCell& cell, const Seqs& seqs, LayerStates states) {
  check_shape(kWhere, "x", x, {seqs.rows(), cell.inputs});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_elapsed(kWhere, seqs);
  Tensor y = ctx.arena.empty({seqs.rows(), cell.outputs});
  if (seqs.rows() == 0) return y;

  const bool has_memory = cell.memory.defined();
  LtcArgs args = shared_args(x, cell, seqs, ctx.numerics.ltc);
  args.y = view(y);
  args.batch = cell_batch(seqs, states, has_memory);
  const Tensor parameter = ctx.tape != nullptr ? trained_parameter(cell, *ctx.tape) : Tensor();
  const bool recorded = ctx.tape != nullptr && (ctx.tape->needs(x) || parameter.defined());
  if (recorded && args.solver != Numerics::Solver::kSemiImplicit) ctx.without_backward(kWhere);
  CellRecord record;
  if (recorded) record = CellRecord(ctx, seqs, states, cell.units, has_memory);
  args.kept = record.kept();
  const Tensor workspace = ctx.workspace(kernels::ltc_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::ltc(ctx.stream, args);
  if (recorded) {
    const Forward forward = {x, cell, seqs, states, record};
    const auto backward = [forward](Ctx& inner, std::span<const Tensor> d, Grads& grads) {
      ltc_backward(inner, forward, d[0], grads);
    };
    ctx.tape->record(ctx, kWhere, {x, parameter}, {y}, backward, states);
  }
  return rounded(ctx, y);
}

}  // namespace carousel::ops
