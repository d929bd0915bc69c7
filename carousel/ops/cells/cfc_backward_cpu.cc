// SPDX-License-Identifier: Apache-2.0
// The gradient of the CfC cell. The sums of all maps are computed again for all rows at once, from the states that
// every row left; a sequence then goes back row by row, and turns sums into their gradients in place.
#include "carousel/ops/cells/cell_backward_cpu.h"
#include "carousel/ops/cells/cfc_cpu.h"
#include "carousel/ops/cells/cfc_values_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::CfcMode;

struct Layer : ops::CfcLayerArgs {
  int64_t first;   // its place among the units of all layers
  BackMap* maps;   // [depth + 1] the backbone's, then the heads
  float* d_w_tau;  // [units], or null
  float* d_a;      // [units], or null
  float* rates;    // [N, 2, cell_pad(units)] what each row adds to those two, mode pure
};

struct Call : ops::CfcBackwardArgs {
  int64_t rows, units, inputs;
  CfcMode mode;
  Layer* layers;  // [layer_count]
  int64_t layer_count;
  Start start;
  float* outer;    // [threads, kOuterScratch]
  float* scratch;  // [threads, scratch_stride]
  int64_t scratch_stride;
  int64_t widest;  // most inputs of a map, padded
};

inline const BackMap& heads_of(const Layer& layer) { return layer.maps[layer.depth]; }

/// Row n of the input of layer l's first map: the layer's input, then its own state.
void first_input(const Call& args, int64_t l, int64_t n) {
  const Layer& layer = args.layers[l];
  float* const z = layer.maps[0].z + n * (layer.inputs + layer.units);
  const float* const input = l == 0 ? args.x.f32() + n * args.x.stride
                                    : args.history.h.f32() + n * args.history.h.stride + args.layers[l - 1].first;
  std::memcpy(z, input, sizeof(float) * static_cast<size_t>(layer.inputs));
  std::memcpy(z + layer.inputs, args.start.h + n * args.units + layer.first,
              sizeof(float) * static_cast<size_t>(layer.units));
}

/// Computes the sums of all rows of a layer.
void compute_layer(const Stream& stream, const Call& args, int64_t l) {
  const Layer& layer = args.layers[l];
  for_rows(stream, args.batch.seqs, layer.inputs + layer.units,
           [&](int64_t, int64_t n, bool) { first_input(args, l, n); });
  for (int64_t i = 0; i <= layer.depth; ++i) {
    const BackMap& map = layer.maps[i];
    transpose_map(stream, map);
    sum_rows_of(stream, map, args.rows);
    if (i == layer.depth) continue;
    const BackMap& next = layer.maps[i + 1];
    const int64_t width = next.map.inputs;
    parallel_ranges(stream, args.rows, width * 30, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        for (int64_t j = 0; j < width; j += kLanes) {
          const Vec sum = load(map.sums + n * map.map.outputs + j);
          store_some(next.z + n * width + j, ops::cfc_activate<CfcMath>(args.activation, sum), width - j);
        }
      }
    });
  }
}

/// The sums of the heads in row n become their gradients. d_h [units] is that of the new state.
void heads_back(const Call& args, const Layer& layer, int64_t n, float dt, const float* d_h) {
  const int64_t stride = ops::cell_pad(layer.units);
  float* const sums = heads_of(layer).sums + n * heads_of(layer).map.outputs;
  const Vec one = set1(1.0f), elapsed = set1(dt);
  for (int64_t j = 0; j < layer.units; j += kLanes) {
    const Vec d = load_some(d_h + j, layer.units - j);
    const auto head = [&](int64_t g) { return load(sums + g * stride + j); };
    const auto give = [&](int64_t g, Vec d_sum) { store(sums + g * stride + j, d_sum); };
    if (args.mode == CfcMode::kPure) {
      const Vec a1 = head(0), w_tau = load(layer.w_tau + j), a = load(layer.a + j), size = VecMath::size(a1);
      const Vec decay = ops::cfc_decay<VecMath>(w_tau, a1, elapsed);
      const Vec sign = w_tau > Vec{} ? one : w_tau < Vec{} ? -one : Vec{};
      float* const rates = layer.rates + n * 2 * stride + j;
      store(rates, d * a * decay * a1 * elapsed * sign);
      store(rates + stride, d * fma(-decay, a1, one));
      give(0, -d * a * decay * fma(-elapsed, size, one));
      continue;
    }
    const Vec first = tanh(head(0)), second = tanh(head(1)), time_a = head(2);
    const Vec s = ops::cfc_time_gate<VecMath>(time_a, head(3), elapsed);
    const bool gated = args.mode == CfcMode::kDefault;
    const Vec d_time = d * (gated ? second - first : second) * s * (one - s);
    give(0, d * (gated ? one - s : one) * fma(-first, first, one));
    give(1, d * s * fma(-second, second, one));
    give(2, d_time * elapsed);
    give(3, d_time);
  }
}

/// Goes back through a layer in row n: d_h [units], the gradient of its new state, becomes that of its old one, and
/// d_z [inputs + units] begins with that of its input.
void layer_back(const Call& args, const Layer& layer, const Stream* threads, int64_t n, float dt, float* d_h,
                float* d_z) {
  heads_back(args, layer, n, dt, d_h);
  input_gradient(threads, heads_of(layer), heads_of(layer).sums + n * heads_of(layer).map.outputs, d_z);
  for (int64_t i = layer.depth - 1; i >= 0; --i) {
    const BackMap& map = layer.maps[i];
    float* const sums = map.sums + n * map.map.outputs;
    for (int64_t j = 0; j < map.map.outputs; j += kLanes) {  // d_z is zero beyond the outputs
      store(sums + j, load(d_z + j) * activation_slope(args.activation, load(sums + j)));
    }
    input_gradient(threads, map, sums, d_z);
  }
  std::memcpy(d_h, d_z + layer.inputs, sizeof(float) * static_cast<size_t>(layer.units));
}

void sequence_back(const Call& args, const Stream* threads, float* scratch, const CellSequence& seq) {
  const int64_t padded = ops::cell_pad(args.units);
  const size_t state_bytes = sizeof(float) * static_cast<size_t>(args.units);
  float *const d_h = scratch, *const d_c = scratch + padded, *const d_z = scratch + 2 * padded;
  std::memset(scratch, 0, sizeof(float) * static_cast<size_t>(2 * padded));
  if (seq.h != nullptr) std::memcpy(d_h, seq.h, state_bytes);
  if (seq.c != nullptr) std::memcpy(d_c, seq.c, state_bytes);
  const Layer& last = args.layers[args.layer_count - 1];
  for (int64_t n = seq.first_row + seq.rows - 1; n >= seq.first_row; --n) {
    const float dt = args.batch.seqs.dt != nullptr ? args.batch.seqs.dt[n] : 1.0f;
    float* const d_x = args.d_x.data != nullptr ? args.d_x.f32() + n * args.d_x.stride : nullptr;
    for (int64_t j = 0; j < last.units; ++j) d_h[last.first + j] += args.d.f32()[n * args.d.stride + j];
    for (int64_t l = args.layer_count - 1; l >= 0; --l) {
      const Layer& layer = args.layers[l];
      layer_back(args, layer, threads, n, dt, d_h + layer.first, d_z);
      float* const d_input = l == 0 ? d_x : d_h + args.layers[l - 1].first;
      if (l == 0 && d_x != nullptr) std::memcpy(d_x, d_z, sizeof(float) * static_cast<size_t>(layer.inputs));
      for (int64_t k = 0; l > 0 && k < layer.inputs; ++k) d_input[k] += d_z[k];
    }
    if (args.start.c != nullptr) memory_back(threads, args.start, args.history.c, n, args.units, d_h, d_c, d_x, d_z);
  }
  if (seq.h != nullptr) std::memcpy(seq.h, d_h, state_bytes);
  if (seq.c != nullptr) std::memcpy(seq.c, d_c, state_bytes);
}

/// Lays a layer out: its maps, and where their gradients are added.
void take_layer(const ops::CfcBackwardArgs& args, int64_t l, Call& call, Layer& layer, Workspace& workspace) {
  for (int64_t i = 0; i <= layer.depth; ++i) {
    const bool is_heads = i == layer.depth;
    const BackMap map =
        take_back_map(is_heads ? layer.heads : ops::cfc_backbone(*args.cell, l, i), call.rows, workspace);
    call.widest = map.transposed.outputs > call.widest ? map.transposed.outputs : call.widest;
    call.widest = map.map.outputs > call.widest ? map.map.outputs : call.widest;
    if (layer.maps != nullptr) layer.maps[i] = map;
  }
  if (layer.w_tau != nullptr) layer.rates = workspace.take<float>(call.rows * 2 * ops::cell_pad(layer.units));
}

Call lay_out(const Stream& stream, const ops::CfcBackwardArgs& args, Workspace& workspace) {
  const ops::CfcCell& cell = *args.cell;
  Call call = {};
  static_cast<ops::CfcBackwardArgs&>(call) = args;
  call.rows = args.batch.seqs.rows();
  call.inputs = cell.inputs;
  call.mode = cell.mode;
  call.layer_count = ops::cfc_layers(cell);
  call.layers = workspace.take<Layer>(call.layer_count);
  for (int64_t l = 0; l < call.layer_count; ++l) {
    Layer layer = {};
    static_cast<ops::CfcLayerArgs&>(layer) = ops::cfc_layer(cell, l);
    layer.first = call.units;
    call.units += layer.units;
    layer.maps = workspace.take<BackMap>(layer.depth + 1);
    take_layer(args, l, call, layer, workspace);
    if (call.layers != nullptr) call.layers[l] = layer;
  }
  const ops::CellMapArgs memory = ops::cfc_memory(cell);
  call.start = take_start(memory, call.rows, call.units, workspace);
  const int64_t memory_inputs = ops::cell_pad(memory.inputs);
  call.widest = memory_inputs > call.widest ? memory_inputs : call.widest;
  call.outer = workspace.take<float>(stream.threads() * kOuterScratch);
  call.scratch_stride = 2 * ops::cell_pad(call.units) + call.widest;
  call.scratch = workspace.take<float>(stream.threads() * call.scratch_stride);
  return call;
}

/// Adds the gradients of all parameters.
void add_parameters(const Stream& stream, const Call& args) {
  for (int64_t l = 0; l < args.layer_count; ++l) {
    const Layer& layer = args.layers[l];
    for (int64_t i = 0; i <= layer.depth; ++i) add_map_gradient(stream, layer.maps[i], args.rows, args.outer);
    const int64_t stride = ops::cell_pad(layer.units);
    if (layer.d_w_tau != nullptr)
      add_columns(layer.d_w_tau, layer.rates, 2 * stride, nullptr, 0, args.rows, layer.units);
    if (layer.d_a != nullptr)
      add_columns(layer.d_a, layer.rates + stride, 2 * stride, nullptr, 0, args.rows, layer.units);
  }
  if (args.start.c != nullptr) add_map_gradient(stream, args.start.memory, args.rows, args.outer);
}

}  // namespace

int64_t cfc_backward_workspace(const Stream& stream, const ops::CfcBackwardArgs& args) {
  Workspace counted;
  lay_out(stream, args, counted);
  return counted.bytes();
}

void cfc_backward(const Stream& stream, const ops::CfcBackwardArgs& given) {
  Workspace workspace(given.workspace);
  Call args = lay_out(stream, given, workspace);
  float* const* d_map = given.d_maps;
  for (int64_t l = 0; l < args.layer_count; ++l) {
    Layer& layer = args.layers[l];
    for (int64_t i = 0; i <= layer.depth; ++i) layer.maps[i].gradient = *d_map++;
    layer.d_w_tau = given.d_rows[2 * l];
    layer.d_a = given.d_rows[2 * l + 1];
  }
  if (args.start.c != nullptr) args.start.memory.gradient = *d_map;
  compute_start(stream, args.start, args.history, args.batch.seqs, args.x, args.units);
  int64_t row_work = 0;
  for (int64_t l = 0; l < args.layer_count; ++l) {
    compute_layer(stream, args, l);
    for (int64_t i = 0; i <= args.layers[l].depth; ++i) {
      row_work += args.layers[l].maps[i].map.inputs * args.layers[l].maps[i].map.outputs * 2;
    }
  }
  for_sequences(stream, args.batch, args.rows * row_work, args.scratch, args.scratch_stride,
                [&](const Stream* threads, float* scratch, const CellSequence& seq) {
                  sequence_back(args, threads, scratch, seq);
                });
  add_parameters(stream, args);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
