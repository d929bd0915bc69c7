// SPDX-License-Identifier: Apache-2.0
// Liquid time-constant layer (arXiv:2006.04439) as in ncps: neurons and synapses of a wiring, affine maps of inputs and
// outputs, optional LSTM memory and a projection of the output. The masks and reversal potentials are parameters: the
// file's values count, and the wiring only draws fresh ones.
#include <algorithm>
#include <tuple>
#include <utility>

#include "carousel/blocks/block.h"
#include "carousel/blocks/cell_params.h"
#include "carousel/blocks/wiring.h"
#include "carousel/core/error.h"
#include "carousel/ops/cells/ltc.h"
#include "carousel/ops/linear/linear.h"

namespace carousel::blocks {
namespace {

constexpr int64_t kMaxProjection = 65536;

std::vector<float> signs_of(const std::vector<int8_t>& matrix) { return {matrix.begin(), matrix.end()}; }

std::vector<float> mask_of(const std::vector<int8_t>& matrix) {
  std::vector<float> mask;
  for (const int8_t sign : matrix) mask.push_back(sign != 0 ? 1.0f : 0.0f);
  return mask;
}

class NcpsLtc : public Block {
 public:
  NcpsLtc(const BlockConfig& config, Params p) {
    Fields& options = config.options;
    const Wiring wiring = read_wiring(options, config.hidden_size);
    read_cell(wiring, options, p.in("cell"));
    cell_.outputs = wiring.output_dim;
    cell_.unfolds = options.integer("ode_unfolds", 1, 1000, 6);
    cell_.epsilon = static_cast<float>(options.number("epsilon", 0, 1, 1e-8));
    mixed_memory_ = options.boolean("mixed_memory", false);
    if (mixed_memory_) cell_.memory = read_mixed_memory(p.in("memory"), cell_.inputs, cell_.units);
    output_size_ = options.integer("proj_size", 0, kMaxProjection, config.hidden_size);
    if (output_size_ == 0) {
      output_size_ = cell_.outputs;
      return;
    }
    out_ = p.projection("out", output_size_, cell_.outputs, fan_in_uniform(cell_.outputs), true,
                        fan_in_uniform(cell_.outputs));
  }

  std::vector<StateSpec> state() const override {
    const StateSpec v{.name = "v", .shape = Shape{cell_.units}, .cut_anywhere = true};
    if (!mixed_memory_) return {v};
    return {v, {.name = "c", .shape = v.shape, .cut_anywhere = true}};
  }

  int64_t output_size() const override { return output_size_; }

  Tensor forward(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const override {
    const Tensor y = run(ctx, x, seqs, states);  // [N, M]
    return out_.defined() ? ops::linear(ctx, y, {&out_}) : y;
  }

 private:
  // A profile may constrain the parameters in another way; the cell constrained in the model's own way is kept.
  Tensor run(Ctx& ctx, const Tensor& x, const Seqs& seqs, LayerStates states) const {
    if (ctx.numerics.ltc == Numerics::Ltc{}) return ops::ltc(ctx, x, cell_, seqs, states);
    return ops::ltc(ctx, x, cell_.under(ctx.stream, ctx.numerics.ltc), seqs, states);
  }

  static Wiring read_wiring(Fields& options, int64_t inputs) {
    const std::string where = options.where() + ": \"wiring\"";
    if (!options.has("wiring")) {
      const int64_t units = options.integer("units", 1, kMaxWiringUnits, std::min(inputs, kMaxWiringUnits));
      return make_wiring({{"type", "FullyConnected"}, {"units", units}}, inputs, where);
    }
    if (options.has("units")) {
      fail(ErrorKind::kInput, "{}: \"units\" is set beside \"wiring\", expected one of them", options.where());
    }
    return make_wiring(options.object("wiring"), inputs, where);
  }

  void read_cell(const Wiring& wiring, Fields& options, Params p) {
    const int64_t units = wiring.units;
    ops::LtcParams params;
    params.implicit = options.boolean("implicit_param_constraints", true);
    // Without the softplus they must not fall below zero (ncps: apply_weight_constraints).
    const auto kept = [&](const Init& init) { return params.implicit ? init : init.at_least(0); };
    params.gleak = p.tensor("gleak", Shape{units}, kept(Init::range(0.001, 1.0)));
    params.vleak = p.tensor("vleak", Shape{units}, Init::range(-0.2, 0.2));
    params.cm = p.tensor("cm", Shape{units}, kept(Init::range(0.4, 0.6)));
    const Init w = kept(Init::range(0.001, 1.0));
    params.recurrent = read_synapses(p, "", Shape{units, units}, wiring.adjacency, w);
    params.sensory = read_synapses(p, "sensory_", Shape{wiring.input_dim, units}, wiring.sensory, w);
    cell_ = p.form(ops::LtcCell(params, {}));
    std::tie(cell_.input_w, cell_.input_b) = read_mapping(options, "input", p, wiring.input_dim);
    std::tie(cell_.output_w, cell_.output_b) = read_mapping(options, "output", p, wiring.output_dim);
  }

  static ops::LtcSynapseParams read_synapses(Params& p, const std::string& prefix, const Shape& shape,
                                             const std::vector<int8_t>& signs, const Init& init) {
    const Tensor w = p.tensor(prefix + "w", shape, init);
    const Tensor mu = p.tensor(prefix + "mu", shape, Init::range(0.3, 0.8));
    const Tensor sigma = p.tensor(prefix + "sigma", shape, Init::range(3, 8));
    const Tensor erev = p.tensor(prefix + "erev", shape, Init::copied(signs_of(signs)));
    const Tensor mask = p.tensor(prefix + "sparsity_mask", shape, Init::synapses(mask_of(signs)));
    for (const Tensor& values : {w, mu, sigma, erev}) p.fix_masked(values, mask);
    return {w, mask, mu, sigma, erev};
  }

  /// Weight and bias [count] of one side, undefined where its mapping has none.
  static std::pair<Tensor, Tensor> read_mapping(Fields& options, const std::string& side, Params& p, int64_t count) {
    const std::string mapping = options.choice((side + "_mapping").c_str(), {"affine", "linear", "none"}, "affine");
    Tensor weight, bias;
    if (mapping != "none") weight = p.tensor(side + "_w", Shape{count}, Init::constant(1));
    if (mapping == "affine") bias = p.tensor(side + "_b", Shape{count}, Init::constant(0));
    return {weight, bias};
  }

  ops::LtcCell cell_;
  bool mixed_memory_ = false;
  int64_t output_size_ = 0;
  Weight out_;  // [proj_size, M] with bias, or empty
};

}  // namespace

std::unique_ptr<Block> make_ncps_ltc(const BlockConfig& config, Params params) {
  return std::make_unique<NcpsLtc>(config, std::move(params));
}

}  // namespace carousel::blocks
