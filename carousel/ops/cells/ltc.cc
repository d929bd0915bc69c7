// SPDX-License-Identifier: Apache-2.0
// LTC cells: the constraints of their parameters, checks, and the call of the kernel.
#include "carousel/ops/cells/ltc.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "carousel/ops/cells/ltc_cpu.h"
#include "carousel/ops/rounding/rounding.h"

namespace carousel::ops {
namespace {

LtcSynapseArgs synapse_args(const LtcSynapses& synapses) {
  return {synapses.w.f32(),     synapses.we.f32(),     synapses.mu.f32(),
          synapses.sigma.f32(), synapses.begin.data(), synapses.sources.data()};
}

const float* values_of(const Tensor& tensor) { return tensor.defined() ? tensor.f32() : nullptr; }

// P, then the bounds.
float constrained(float raw, bool implicit, const Numerics::Range& range) {
  const auto x = static_cast<double>(raw);
  const double value = !implicit ? x : x > 30 ? x : std::log1p(std::exp(x));
  return static_cast<float>(std::clamp(value, range.low, range.high));
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
  for (const Tensor* row : {&cm, &gleak, &gvleak}) {
    std::fill_n(row->f32(), row->count(), 1.0f);  // columns beyond the neurons stay finite
  }
  for (int64_t j = 0; j < units; ++j) {
    cm.f32()[j] = constrained(params_.cm.f32()[j], implicit, numerics_.cm);
    gleak.f32()[j] = constrained(params_.gleak.f32()[j], implicit, numerics_.gleak);
    gvleak.f32()[j] = gleak.f32()[j] * params_.vleak.f32()[j];
  }
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

LtcSynapses::LtcSynapses(const LtcSynapseParams& params) {
  const int64_t count = params.w.dim(0), units = params.w.dim(1), padded = cell_pad(units);
  for (Tensor* tensor : {&w, &we, &mu, &sigma}) *tensor = Tensor(Shape{count, padded}, DType::kF32, params.w.memory());
  if (w.raw() == nullptr) return;
  begin.push_back(0);
  for (int64_t j = 0; j < padded; j += kCellPad) {
    for (int64_t i = 0; i < count; ++i) {
      bool reaches = false;
      for (int64_t k = j; k < j + kCellPad && k < units; ++k) reaches |= params.mask.f32()[i * units + k] != 0;
      if (reaches) sources.push_back(static_cast<int32_t>(i));
    }
    begin.push_back(static_cast<int32_t>(sources.size()));
  }
}

void LtcSynapses::pack(const LtcSynapseParams& params, const std::function<float(float)>& constrain) const {
  const int64_t count = params.w.dim(0), units = params.w.dim(1), padded = cell_pad(units);
  for (int64_t i = 0; i < count && w.raw() != nullptr; ++i) {
    for (int64_t j = 0; j < units; ++j) {
      const int64_t from = i * units + j, to = i * padded + j;
      w.f32()[to] = params.mask.f32()[from] != 0 ? constrain(params.w.f32()[from]) : 0.0f;
      we.f32()[to] = w.f32()[to] * params.erev.f32()[from];
      mu.f32()[to] = params.mu.f32()[from];
      sigma.f32()[to] = params.sigma.f32()[from];
    }
  }
}

Tensor ltc(Ctx& ctx, const Tensor& x, const LtcCell& cell, const Seqs& seqs, LayerStates states) {
  ctx.without_backward("ops::ltc");
  constexpr const char* kWhere = "ops::ltc";
  check_shape(kWhere, "x", x, {seqs.rows(), cell.inputs});
  check_dtype(kWhere, "x", x, DType::kF32);
  check_elapsed(kWhere, seqs);
  Tensor y = ctx.arena.empty({seqs.rows(), cell.outputs});
  if (seqs.rows() == 0) return y;

  const Numerics::Ltc& numerics = ctx.numerics.ltc;
  LtcArgs args = {view(x),
                  view(y),
                  values_of(cell.input_w),
                  values_of(cell.input_b),
                  values_of(cell.output_w),
                  values_of(cell.output_b),
                  cell.cm.f32(),
                  cell.gleak.f32(),
                  cell.gvleak.f32(),
                  synapse_args(cell.sensory),
                  synapse_args(cell.recurrent),
                  map_args(cell.memory),
                  cell.inputs,
                  cell.units,
                  cell.outputs,
                  numerics.unfolds.value_or(cell.unfolds),
                  static_cast<float>(numerics.epsilon.value_or(cell.epsilon)),
                  static_cast<float>(numerics.step.value_or(0)),
                  numerics.solver,
                  cell_batch(seqs, states, cell.memory.defined()),
                  nullptr};
  const Tensor workspace = ctx.workspace(kernels::ltc_workspace(ctx.stream, args));
  args.workspace = workspace.raw();
  kernels::ltc(ctx.stream, args);
  return rounded(ctx, y);
}

}  // namespace carousel::ops
