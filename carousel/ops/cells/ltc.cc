// SPDX-License-Identifier: Apache-2.0
// LTC cells: the constraints of their parameters, checks, and the call of the kernel.
#include "carousel/ops/cells/ltc.h"

#include <algorithm>
#include <cmath>

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

void constrain(const LtcParams& params, const Numerics::Ltc& numerics, LtcCell& cell) {
  const bool implicit = numerics.implicit.value_or(params.implicit);
  const auto synapses = [&](const LtcParams::Synapses& from) {
    Tensor w(from.w.shape(), DType::kF32, from.w.memory());
    for (int64_t i = 0; i < w.count() && w.raw() != nullptr; ++i)
      w.f32()[i] = constrained(from.w.f32()[i], implicit, numerics.w);
    return LtcSynapses(w, from.mask, from.mu, from.sigma, from.erev);
  };
  cell.sensory = synapses(params.sensory);
  cell.recurrent = synapses(params.recurrent);
  for (Tensor* row : {&cell.cm, &cell.gleak, &cell.gvleak}) {
    *row = Tensor(Shape{cell_pad(cell.units)}, DType::kF32, params.cm.memory());
    for (int64_t j = 0; j < row->count() && row->raw() != nullptr; ++j)
      row->f32()[j] = 1.0f;  // columns beyond the neurons stay finite
  }
  for (int64_t j = 0; j < cell.units && cell.cm.raw() != nullptr; ++j) {
    cell.cm.f32()[j] = constrained(params.cm.f32()[j], implicit, numerics.cm);
    cell.gleak.f32()[j] = constrained(params.gleak.f32()[j], implicit, numerics.gleak);
    cell.gvleak.f32()[j] = cell.gleak.f32()[j] * params.vleak.f32()[j];
  }
}

LtcSynapses::LtcSynapses(const Tensor& weight, const Tensor& mask, const Tensor& mu_in, const Tensor& sigma_in,
                         const Tensor& erev) {
  const int64_t count = weight.dim(0), units = weight.dim(1), padded = cell_pad(units);
  for (Tensor* tensor : {&w, &we, &mu, &sigma}) *tensor = Tensor(Shape{count, padded}, DType::kF32, weight.memory());
  if (w.raw() == nullptr) return;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < units; ++j) {
      const int64_t from = i * units + j, to = i * padded + j;
      w.f32()[to] = mask.f32()[from] != 0 ? weight.f32()[from] : 0.0f;
      we.f32()[to] = w.f32()[to] * erev.f32()[from];
      mu.f32()[to] = mu_in.f32()[from];
      sigma.f32()[to] = sigma_in.f32()[from];
    }
  }
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

Tensor ltc(Ctx& ctx, const Tensor& x, const LtcCell& cell, const Seqs& seqs, LayerStates states) {
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
