// SPDX-License-Identifier: Apache-2.0
// The CfC recurrence. The chains over x are begun for all rows first; a step then continues them with the state.
// Sequences are independent, and so are the units of a step.
#include "carousel/ops/cells/cfc_cpu.h"

#include "carousel/ops/cells/cell_cpu.h"
#include "carousel/ops/cells/cfc_values_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::CfcActivation;
using ops::CfcMode;

struct Layer : ops::CfcLayerArgs {
  const ops::CellMapArgs* backbone;  // [depth]
};

/// The arguments, the layers listed, and what is laid out in their workspace.
struct Call {
  const float* x;   // [N, I]
  const float* dt;  // [N] or null
  float* y;         // [N, units of the last layer]
  int64_t rows, inputs;
  int64_t units;  // units of all layers together
  Layer* layers;  // [layer_count]
  int64_t layer_count;
  ops::CellMapArgs memory;
  CfcMode mode;
  CfcActivation activation;
  float* from_x;    // [N, M] the x part of the first map
  float* memory_x;  // [N, 4 Hp] the x part of the mixed memory
  float* scratch;   // [threads, scratch_stride]
  int64_t scratch_stride;
  int64_t widest;  // most outputs of a map
  ops::CellKept kept;
};

/// The state of one layer after time dt, from the heads' sums [G, Up].
inline Vec new_state(const Call& args, const Layer& layer, const float* sums, Vec dt, int64_t j) {
  const int64_t stride = ops::cell_pad(layer.units);
  const auto head = [&](int64_t g) { return load(sums + g * stride + j) + load(layer.heads.bias + g * stride + j); };
  const Vec a1 = head(0);
  if (args.mode == CfcMode::kPure) {
    return ops::cfc_pure<VecMath>(load(layer.a + j), load(layer.w_tau + j), a1, dt);
  }
  return ops::cfc_gated<VecMath>(args.mode, {a1, head(1), head(2), head(3)}, dt);
}

/// One step of one layer: h [units] becomes the new state. `from_x` is the begun chains of the first map; where it is
/// null, the chains begin with the input [inputs].
void layer_step(const Call& args, const Layer& layer, const Stream* threads, const float* from_x, const float* input,
                float* h, float dt, float* sums, float* other) {
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
      store(sums + j, ops::cfc_activate<CfcMath>(args.activation, load(sums + j) + load(map.bias + j)));
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

void run_sequence(const Call& args, const Stream* threads, float* scratch, const CellSequence& seq) {
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
  const Layer& front = args.layers[0];
  const int64_t width = front.depth > 0 ? front.backbone[0].outputs : front.heads.outputs;
  const int64_t out_units = args.layers[args.layer_count - 1].units;
  for (int64_t n = seq.first_row; n < seq.first_row + seq.rows; ++n) {
    const float dt = args.dt != nullptr ? args.dt[n] : 1.0f;
    if (args.memory.outputs > 0) {
      memory_step(threads, args.memory, args.inputs, args.memory_x + n * args.memory.outputs, h, c, gates);
    }
    float* h_l = h;
    for (int64_t l = 0; l < args.layer_count; ++l) {
      const Layer& layer = args.layers[l];
      const float* from_x = l == 0 ? args.from_x + n * width : nullptr;
      layer_step(args, layer, threads, from_x, l == 0 ? nullptr : h_l - layer.inputs, h_l, dt, sums,
                 sums + args.widest);
      h_l += layer.units;
    }
    std::memcpy(args.y + n * out_units, h_l - out_units, static_cast<size_t>(out_units) * sizeof(float));
    keep_row(args.kept, n, args.units, h, c);
  }
}

const ops::CellMapArgs& first_map(const Layer& layer) { return layer.depth > 0 ? layer.backbone[0] : layer.heads; }

/// Lists the layers, and in `maps`, one after the other, the maps of all backbones.
void list_layers(const ops::CfcCell& cell, Layer* layers, ops::CellMapArgs* maps) {
  for (int64_t l = 0; l < ops::cfc_layers(cell); ++l) {
    static_cast<ops::CfcLayerArgs&>(layers[l]) = ops::cfc_layer(cell, l);
    layers[l].backbone = maps;
    for (int64_t i = 0; i < layers[l].depth; ++i) *maps++ = ops::cfc_backbone(cell, l, i);
  }
}

Call lay_out(const Stream& stream, const ops::CfcArgs& args, Workspace& workspace) {
  const ops::CfcCell& cell = *args.cell;
  Call call = {};
  call.rows = args.batch.seqs.rows();
  call.inputs = cell.inputs;
  call.layer_count = ops::cfc_layers(cell);
  int64_t depth = 0, first_outputs = 0;
  for (int64_t l = 0; l < call.layer_count; ++l) {
    const ops::CfcLayerArgs layer = ops::cfc_layer(cell, l);
    if (l == 0) first_outputs = layer.depth > 0 ? ops::cfc_backbone(cell, 0, 0).outputs : layer.heads.outputs;
    call.units += layer.units;
    depth += layer.depth;
  }
  call.widest = ops::cfc_widest(cell);
  call.memory = ops::cfc_memory(cell);
  call.layers = workspace.take<Layer>(call.layer_count);
  auto* const maps = workspace.take<ops::CellMapArgs>(depth);
  if (call.layers != nullptr) list_layers(cell, call.layers, maps);
  call.from_x = workspace.take<float>(call.rows * first_outputs);
  call.memory_x = workspace.take<float>(call.rows * call.memory.outputs);
  // h, c, the memory's gates, and two buffers of activations.
  call.scratch_stride = 6 * ops::cell_pad(call.units) + 2 * call.widest;
  call.scratch = workspace.take<float>(stream.threads() * call.scratch_stride);
  return call;
}

}  // namespace

int64_t cfc_workspace(const Stream& stream, const ops::CfcArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void cfc(const Stream& stream, const ops::CfcArgs& given) {
  Workspace workspace(given.workspace);
  Call args = lay_out(stream, given, workspace);
  args.x = given.x.f32();
  args.dt = given.batch.seqs.dt;
  args.y = given.y.f32();
  args.mode = given.cell->mode;
  args.activation = given.activation;
  args.kept = given.kept;
  map_rows(stream, first_map(args.layers[0]), args.x, args.rows, args.inputs, args.from_x);
  if (args.memory.outputs > 0) map_rows(stream, args.memory, args.x, args.rows, args.inputs, args.memory_x);
  const int64_t row_work = args.widest * (args.units + args.inputs) * 2;
  for_sequences(stream, given.batch, args.rows * row_work, args.scratch, args.scratch_stride,
                [&](const Stream* threads, float* scratch, const CellSequence& seq) {
                  run_sequence(args, threads, scratch, seq);
                });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
