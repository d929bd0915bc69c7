// SPDX-License-Identifier: Apache-2.0
// The CfC recurrence. What depends on x alone is computed for all rows first; a step then continues those chains with
// the state. Sequences are independent, and so are the units of a step.
#include "carousel/ops/cells/cfc.h"

#include "carousel/ops/cells/cell_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::CfcActivation;
using ops::CfcArgs;
using ops::CfcLayerArgs;
using ops::CfcMode;

inline Vec gelu(Vec x) {
  float lane[kLanes];
  store(lane, x);
  for (float& v : lane) v = 0.5f * v * (1.0f + __builtin_erff(v * 0.70710678118654752f));
  return load(lane);
}

inline Vec activate(CfcActivation kind, Vec x) {
  switch (kind) {
    case CfcActivation::kLecunTanh:
      return set1(1.7159f) * tanh(set1(0.666f) * x);
    case CfcActivation::kTanh:
      return tanh(x);
    case CfcActivation::kRelu:
      return max(x, Vec{});
    case CfcActivation::kSilu:
      return x * sigmoid(x);
    case CfcActivation::kGelu:
      return gelu(x);
    case CfcActivation::kGeluTanh:
      return set1(0.5f) * x * (set1(1.0f) + tanh(set1(0.797884560802865356f) * (x + set1(0.044715f) * x * x * x)));
  }
  return x;
}

/// The state of one layer after time dt, from the heads' sums [G, Up].
inline Vec new_state(const CfcArgs& args, const CfcLayerArgs& layer, const float* sums, Vec dt, int64_t j) {
  const int64_t stride = ops::cell_pad(layer.units);
  const auto head = [&](int64_t g) { return load(sums + g * stride + j) + load(layer.heads.bias + g * stride + j); };
  const Vec a1 = head(0);
  if (args.mode == CfcMode::kPure) {
    const Vec w_tau = load(layer.w_tau + j), a = load(layer.a + j);
    const Vec rate = max(w_tau, -w_tau) + max(a1, -a1);
    return a - a * exp(-dt * rate) * a1;
  }
  const Vec s = sigmoid(head(2) * dt + head(3));
  const Vec after = s * tanh(head(1));
  if (args.mode == CfcMode::kNoGate) return tanh(a1) + after;
  return tanh(a1) * (set1(1.0f) - s) + after;
}

/// One step of one layer: h [units] becomes the new state. `from_x`: the begun chains of the first map, or null where
/// the input [inputs] is still to be added.
void layer_step(const CfcArgs& args, const CfcLayerArgs& layer, const Stream* threads, const float* from_x,
                const float* input, float* h, float dt, float* sums, float* other) {
  const ops::CellMapArgs& first = layer.depth > 0 ? layer.backbone[0] : layer.heads;
  if (from_x == nullptr) {
    std::memset(sums, 0, static_cast<size_t>(first.outputs) * sizeof(float));
    map_step(threads, first, 0, input, layer.inputs, sums, sums);
    from_x = sums;
  }
  map_step(threads, first, layer.inputs, h, layer.units, from_x, sums);
  for (int64_t l = 0; l < layer.depth; ++l) {
    const ops::CellMapArgs& map = layer.backbone[l];
    for (int64_t j = 0; j < map.outputs; j += kLanes) {
      store(sums + j, activate(args.activation, load(sums + j) + load(map.bias + j)));
    }
    const ops::CellMapArgs& next = l + 1 < layer.depth ? layer.backbone[l + 1] : layer.heads;
    std::memset(other, 0, static_cast<size_t>(next.outputs) * sizeof(float));
    map_step(threads, next, 0, sums, next.inputs, other, other);
    float* const swapped = sums;
    sums = other;
    other = swapped;
  }
  const Vec elapsed = set1(dt);
  for (int64_t j = 0; j < layer.units; j += kLanes) {
    store_some(h + j, new_state(args, layer, sums, elapsed, j), layer.units - j);
  }
}

void run_sequence(const CfcArgs& args, const Stream* threads, float* scratch, const ops::CellSequence& seq) {
  const int64_t padded = ops::cell_pad(args.units);
  float* h = seq.h;
  float* c = seq.c;
  float* const gates = scratch + 2 * padded;  // [4 Hp]
  float* const sums = scratch + 6 * padded;   // [widest], and as much again
  if (h == nullptr) {
    std::memset(scratch, 0, static_cast<size_t>(2 * padded) * sizeof(float));
    h = scratch;
    c = scratch + padded;
  }
  const CfcLayerArgs& front = args.layers[0];
  const int64_t width = front.depth > 0 ? front.backbone[0].outputs : front.heads.outputs;
  const int64_t out_units = args.layers[args.layer_count - 1].units;
  for (int64_t n = seq.first_row; n < seq.first_row + seq.rows; ++n) {
    const float dt = args.dt != nullptr ? args.dt[n] : 1.0f;
    if (args.memory.weight != nullptr) {
      memory_step(threads, args.memory, args.inputs, args.memory_x + n * args.memory.outputs, h, c, gates);
    }
    float* h_l = h;
    for (int64_t l = 0; l < args.layer_count; ++l) {
      const CfcLayerArgs& layer = args.layers[l];
      const float* from_x = l == 0 ? args.from_x + n * width : nullptr;
      layer_step(args, layer, threads, from_x, l == 0 ? nullptr : h_l - layer.inputs, h_l, dt, sums,
                 sums + args.widest);
      h_l += layer.units;
    }
    std::memcpy(args.y + n * out_units, h_l - out_units, static_cast<size_t>(out_units) * sizeof(float));
  }
}

}  // namespace

void cfc(const Stream& stream, const ops::CfcArgs& args) {
  const ops::CfcLayerArgs& front = args.layers[0];
  map_rows(stream, front.depth > 0 ? front.backbone[0] : front.heads, args.x, args.rows, args.inputs, args.from_x);
  if (args.memory.weight != nullptr) map_rows(stream, args.memory, args.x, args.rows, args.inputs, args.memory_x);
  const int64_t row_work = args.widest * (args.units + args.inputs) * 2;
  for_sequences(stream, args.sequences, args.batch, args.rows * row_work, args.scratch, args.scratch_stride,
                [&](const Stream* threads, float* scratch, const ops::CellSequence& seq) {
                  run_sequence(args, threads, scratch, seq);
                });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
