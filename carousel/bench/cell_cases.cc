// SPDX-License-Identifier: Apache-2.0
// The operands of the continuous-time cells. Their parameters stay in a cache, and what they spend is computing.
#include <fmt/format.h>

#include <memory>

#include "carousel/bench/op_makers.h"
#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/cells/ltc.h"

namespace carousel::bench {
namespace {

/// Makes parameters of the op: their gradients are computed too, on the host.
struct Parameters {
  Work& work;

  Tensor operator()(const Shape& shape, float scale, float offset = 0) const {
    Tensor values = drawn(shape, scale);
    for (int64_t i = 0; i < values.count(); ++i) values.f32()[i] += offset;
    values = values.to(work.memory);
    work.train(values);
    return values;
  }
};

/// The case of either cell, and its x and states.
OpCase case_with(const Cost& cost, Work& work, const Shapes& shapes, int64_t inputs, int64_t units) {
  OpCase result = case_of(shapes, cost);
  result.shape = fmt::format("B={} T={} I={} H={}", shapes.batch, shapes.rows, inputs, units);
  work.layout.add("0", {{"h", DType::kF32, Shape{units}}});
  work.draw(result.ring, {shapes.all_rows(), inputs});
  work.add_states(result.ring, shapes);
  return result;
}

ops::LtcSynapseParams synapses(const Parameters& parameter, int64_t sources, int64_t units) {
  const Tensor mask({sources, units}, DType::kF32);
  for (int64_t i = 0; i < mask.count(); ++i) mask.f32()[i] = 1;
  ops::LtcSynapseParams params;
  params.w = parameter(mask.shape(), 0.2f, 0.5f);
  params.mask = mask.to(parameter.work.memory);
  params.mu = parameter(mask.shape(), 0.1f, 0.5f);
  params.sigma = parameter(mask.shape(), 1.0f, 5.0f);
  params.erev = parameter(mask.shape(), 1.0f);
  return params;
}

}  // namespace

OpCase cfc_case(const Shapes& shapes) {
  const int64_t inputs = chosen(shapes.options.in, 16), units = chosen(shapes.options.out, 64), backbone = 2 * units;
  // ring_of() refuses what does not fit, before it is drawn.
  ring_of(kF32Bytes * static_cast<double>(backbone) * static_cast<double>(inputs + 5 * units));
  const auto work = std::make_shared<Work>(shapes.memory());
  const Parameters parameter = {*work};
  ops::CfcLayer layer;
  layer.units = units;
  ops::CellMap hidden(inputs + units, backbone, 1, shapes.memory()), heads(backbone, units, 4, shapes.memory());
  hidden.add(0, 0, parameter({backbone, inputs + units}, 0.1f));
  hidden.add_bias(0, parameter({backbone}, 0.1f));
  for (int64_t part = 0; part < 4; ++part) {
    heads.add(part, 0, parameter({units, backbone}, 0.1f));
    heads.add_bias(part, parameter({units}, 0.1f));
  }
  hidden.pack(shapes.stream);
  heads.pack(shapes.stream);
  layer.backbone = {hidden};
  layer.heads = heads;
  ops::CfcCell cell;
  cell.inputs = inputs;
  cell.layers = {layer};
  OpCase result = case_with(cfc_cost(cell, shapes.lengths()), *work, shapes, inputs, units);
  set_call(result, work, shapes, [&held = *work, cell](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    return std::vector<Tensor>{ops::cfc(ctx, held.x[i], cell, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

OpCase ltc_case(const Shapes& shapes) {
  const int64_t inputs = chosen(shapes.options.in, 16), units = chosen(shapes.options.out, 32);
  // ring_of() refuses what does not fit, before it is drawn.
  ring_of(5.0 * kF32Bytes * static_cast<double>(units) * static_cast<double>(inputs + units));
  const auto work = std::make_shared<Work>(shapes.memory());
  const Parameters parameter = {*work};
  ops::LtcParams params;
  params.gleak = parameter({units}, 0.1f, 0.5f);
  params.vleak = parameter({units}, 0.1f);
  params.cm = parameter({units}, 0.02f, 0.5f);
  params.sensory = synapses(parameter, inputs, units);
  params.recurrent = synapses(parameter, units, units);
  ops::LtcCell cell(params, {});
  cell.outputs = units;
  cell.pack(shapes.stream);
  const Cost cost = ltc_cost({inputs, units, units, cell.unfolds}, shapes.lengths());
  OpCase result = case_with(cost, *work, shapes, inputs, units);
  set_call(result, work, shapes, [&held = *work, cell](Ctx& ctx, size_t i) {
    const OpBatch& batch = *held.batches[i];
    return std::vector<Tensor>{ops::ltc(ctx, held.x[i], cell, batch.seqs, batch.bound.layer(0))};
  });
  return result;
}

}  // namespace carousel::bench
