// SPDX-License-Identifier: Apache-2.0
// Closed-form continuous-time layer (arXiv:2106.13898) as in ncps: a backbone and four heads, or one small cell per
// layer of a wiring, whose masks cut ff1 and ff2 only; optional LSTM memory and a projection of the output.
#include <fmt/format.h>

#include "carousel/blocks/block.h"
#include "carousel/blocks/cell_params.h"
#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"
#include "carousel/ops/cells/cfc.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxUnits = 65536;
constexpr int64_t kMaxBackboneLayers = 256;

ops::CfcActivation read_activation(Fields& options) {
  const std::string name =
      options.choice("backbone_activation", {"lecun_tanh", "tanh", "relu", "silu", "gelu"}, "lecun_tanh");
  return name == "tanh"   ? ops::CfcActivation::kTanh
         : name == "relu" ? ops::CfcActivation::kRelu
         : name == "silu" ? ops::CfcActivation::kSilu
         : name == "gelu" ? ops::CfcActivation::kGelu
                          : ops::CfcActivation::kLecunTanh;
}

/// The mask of wired layer l [units, inputs + units]: the wiring's synapses from the layer before (or the inputs), and
/// all recurrent ones.
std::vector<float> layer_mask(const Wiring& wiring, size_t l) {
  const std::vector<int64_t>& here = wiring.layers[l];
  std::vector<float> mask;
  for (const int64_t dest : here) {
    if (l == 0) {
      for (int64_t i = 0; i < wiring.input_dim; ++i) mask.push_back(wiring.sensory_synapse(i, dest) != 0 ? 1.0f : 0.0f);
    } else {
      for (const int64_t source : wiring.layers[l - 1]) mask.push_back(wiring.synapse(source, dest) != 0 ? 1.0f : 0.0f);
    }
    mask.insert(mask.end(), here.size(), 1.0f);
  }
  return mask;
}

class NcpsCfc : public Block {
 public:
  NcpsCfc(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    cell_.inputs = config.hidden_size;
    const std::string mode = options.choice("mode", {"default", "pure", "no_gate"}, "default");
    cell_.mode = mode == "pure"      ? ops::CfcMode::kPure
                 : mode == "no_gate" ? ops::CfcMode::kNoGate
                                     : ops::CfcMode::kDefault;
    if (options.has("wiring")) {
      read_wired(options, p.in("cell"));
    } else {
      read_plain(options, p.in("cell"));
    }
    mixed_memory_ = options.boolean("mixed_memory", false);
    if (mixed_memory_) cell_.memory = read_mixed_memory(p.in("memory"), cell_.inputs, cell_.units());
    const int64_t outputs = cell_.layers.back().units;
    output_size_ = options.integer("proj_size", 0, kMaxUnits, config.hidden_size);
    if (output_size_ == 0) {
      output_size_ = outputs;
      return;
    }
    out_ = p.projection("out", output_size_, outputs, fan_in_uniform(outputs), true, fan_in_uniform(outputs));
  }

  std::vector<StateSpec> state() const override {
    const StateSpec h{.name = "h", .shape = Shape{cell_.units()}, .cut_anywhere = true};
    if (!mixed_memory_) return {h};
    return {h, {.name = "c", .shape = h.shape, .cut_anywhere = true}};
  }

  int64_t output_size() const override { return output_size_; }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor h = ops::cfc(ctx, x, cell_, seqs, states);  // [N, units of the last layer]
    return out_.defined() ? ops::linear(ctx, h, {&out_}) : h;
  }

 private:
  void read_plain(Fields& options, const Params& p) {
    const int64_t units = options.integer("units", 1, kMaxUnits, cell_.inputs);
    const int64_t width = options.integer("backbone_units", 1, kMaxUnits, 128);
    const int64_t depth = options.integer("backbone_layers", 0, kMaxBackboneLayers, 1);
    cell_.activation = read_activation(options);
    ops::CfcLayer layer;
    layer.units = units;
    int64_t inputs = cell_.inputs + units;
    for (int64_t l = 0; l < depth; ++l) {
      layer.backbone.push_back(read_map(p, {fmt::format("backbone.{}", l)}, width, inputs, {}));
      inputs = width;
    }
    read_heads(layer, p, inputs, {});
    cell_.layers.push_back(std::move(layer));
  }

  void read_wired(Fields& options, const Params& p) {
    for (const char* key : {"units", "backbone_units", "backbone_layers", "backbone_activation"}) {
      if (options.has(key))
        fail(ErrorKind::kInput, "{}: \"{}\" is set beside \"wiring\", expected one of them", options.where(), key);
    }
    const Wiring wiring = make_wiring(options.object("wiring"), cell_.inputs, options.where() + ": \"wiring\"");
    int64_t inputs = cell_.inputs;
    for (size_t l = 0; l < wiring.layers.size(); ++l) {
      ops::CfcLayer layer;
      layer.units = static_cast<int64_t>(wiring.layers[l].size());
      Params here = p.in(fmt::format("layers.{}", l));
      const Shape shape{layer.units, inputs + layer.units};
      const Tensor mask = here.tensor("sparsity_mask", shape, Init::synapses(layer_mask(wiring, l)));
      read_heads(layer, here, inputs + layer.units, mask);
      inputs = layer.units;
      cell_.layers.push_back(std::move(layer));
    }
  }

  void read_heads(ops::CfcLayer& layer, Params p, int64_t inputs, const Tensor& mask) const {
    if (cell_.mode != ops::CfcMode::kPure) {
      layer.heads = read_map(p, {"ff1", "ff2", "time_a", "time_b"}, layer.units, inputs, mask);
      return;
    }
    layer.heads = read_map(p, {"ff1"}, layer.units, inputs, mask);
    layer.w_tau = read_row(p, "w_tau", layer.units);
    layer.a = read_row(p, "A", layer.units);
  }

  /// Reads the projections of one input, side by side; the mask cuts the first two, ff1 and ff2.
  static ops::CellMap read_map(Params p, const std::vector<std::string>& names, int64_t rows, int64_t cols,
                               const Tensor& mask) {
    ops::CellMap map;
    for (size_t part = 0; part < names.size(); ++part) {
      const Weight weight =
          p.projection(names[part], rows, cols, xavier_uniform(rows, cols).as_gate(), true, fan_in_uniform(cols));
      if (!map.defined()) map = ops::CellMap(cols, rows, static_cast<int64_t>(names.size()), weight.memory());
      const Tensor values = row_major(weight), cut = part < 2 ? mask : Tensor();
      if (cut.defined()) p.fix_masked(values, cut);
      map.add(static_cast<int64_t>(part), 0, values, 0, cut);
      map.add_bias(static_cast<int64_t>(part), weight.bias);
    }
    return p.form(std::move(map));
  }

  static ops::CellRow read_row(Params& p, const char* name, int64_t units) {
    return p.form(ops::CellRow(p.tensor(name, Shape{1, units}, xavier_uniform(1, units))));
  }

  ops::CfcCell cell_;
  bool mixed_memory_ = false;
  int64_t output_size_ = 0;
  Weight out_;  // [proj_size, units of the last layer] with bias, or empty
};

}  // namespace

std::unique_ptr<Block> make_ncps_cfc(const BlockConfig& config, Params params) {
  return std::make_unique<NcpsCfc>(config, std::move(params));
}

}  // namespace carousel::blocks
