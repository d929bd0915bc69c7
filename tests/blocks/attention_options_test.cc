// SPDX-License-Identifier: Apache-2.0
// The attention block with LFM3's options and norms on both sides of it, through a Stack, against plain f64: window,
// gate per head, partial rotation, norm of the branch's output. However the sequence is cut, its bits are the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"
#include "carousel/model/stack.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr int64_t kWidth = 24, kHeads = 4, kKvHeads = 2, kDim = 8, kRotary = 4, kRows = 150;
constexpr double kEps = 1e-5, kTheta = 100.0;

// Random parameters, kept by name for the reference.
class KeptParams : public ParamSource {
 public:
  explicit KeptParams(const Stream& stream) : stream_(stream) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init&) override {
    const Tensor values = kept[name] = random_tensor({rows, cols}, kept.size() + 1, 0.3f);
    Weight weight(rows, cols, DType::kF32, layout);
    weight.write_rows(stream_, 0, rows, values.raw());
    return weight;
  }
  Tensor tensor(const std::string& name, const Shape& shape, const Init&) override {
    return kept[name] = random_tensor(shape, kept.size() + 1, 0.3f, 1.0f);
  }
  std::map<std::string, Tensor> kept;

 private:
  const Stream& stream_;
};

using Row = std::vector<double>;

Row times(const Tensor& w, const Row& x) {
  Row y(static_cast<size_t>(w.dim(0)), 0.0);
  for (int64_t r = 0; r < w.dim(0); ++r) {
    for (int64_t c = 0; c < w.dim(1); ++c) y[size_t(r)] += double{w.f32()[r * w.dim(1) + c]} * x[size_t(c)];
  }
  return y;
}

Row rms_norm(const Row& x, const Tensor& weight) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  Row y;
  for (size_t i = 0; i < x.size(); ++i)
    y.push_back(x[i] / std::sqrt(squares / double(x.size()) + kEps) * weight.f32()[i]);
  return y;
}

// The first kRotary elements of head `h` of `row`, turned by its position; the others as they are.
Row rotated(const Row& row, int64_t h, int64_t pos) {
  Row head(row.begin() + h * kDim, row.begin() + (h + 1) * kDim);
  const Row plain = head;
  for (size_t j = 0; j < kRotary / 2; ++j) {
    const double angle = double(pos) * std::pow(kTheta, -2.0 * double(j) / kRotary);
    head[j] = plain[j] * std::cos(angle) - plain[j + kRotary / 2] * std::sin(angle);
    head[j + kRotary / 2] = plain[j + kRotary / 2] * std::cos(angle) + plain[j] * std::sin(angle);
  }
  return head;
}

// x + post_norm(attention(norm(x))), then the final norm.
std::vector<double> reference(const std::map<std::string, Tensor>& p, const Tensor& x, int64_t window) {
  const auto at = [&](const std::string& name) { return p.at("layers.0.sliding_attention." + name); };
  std::vector<Row> in, q, k, v, gate;
  for (int64_t t = 0; t < kRows; ++t) {
    in.emplace_back(x.f32() + t * kWidth, x.f32() + (t + 1) * kWidth);
    const Row u = rms_norm(in.back(), at("norm.weight"));
    q.push_back(times(at("q_proj.weight"), u));
    k.push_back(times(at("k_proj.weight"), u));
    v.push_back(times(at("v_proj.weight"), u));
    gate.push_back(times(at("gate_proj.weight"), u));
  }
  std::vector<double> out;
  for (int64_t t = 0; t < kRows; ++t) {
    Row heads;
    for (int64_t h = 0; h < kHeads; ++h) {
      const int64_t g = h / (kHeads / kKvHeads);
      const Row q_h = rotated(q[size_t(t)], h, t);
      Row weights, mixed(kDim, 0.0);
      double total = 0;
      const int64_t begin = std::max<int64_t>(0, t - window + 1);
      for (int64_t s = begin; s <= t; ++s) {
        const Row k_g = rotated(k[size_t(s)], g, s);
        double score = 0;
        for (size_t j = 0; j < kDim; ++j) score += q_h[j] * k_g[j];
        weights.push_back(std::exp(score / std::sqrt(double(kDim))));
        total += weights.back();
      }
      for (int64_t s = begin; s <= t; ++s) {
        for (size_t j = 0; j < kDim; ++j)
          mixed[j] += weights[size_t(s - begin)] / total * v[size_t(s)][size_t(g * kDim) + j];
      }
      for (const double value : mixed) heads.push_back(value / (1 + std::exp(-gate[size_t(t)][size_t(h)])));
    }
    Row y = rms_norm(times(at("out_proj.weight"), heads), at("post_norm.weight"));
    for (size_t i = 0; i < y.size(); ++i) y[i] += in[size_t(t)][i];
    y = rms_norm(y, p.at("out_norm.weight"));
    out.insert(out.end(), y.begin(), y.end());
  }
  return out;
}

model::ModelConfig config_of(int64_t window) {
  const Json json = {{"model_type", "carousel"},
                     {"vocab_size", 8},
                     {"hidden_size", kWidth},
                     {"norm_eps", kEps},
                     {"post_norm", true},
                     {"layer_types", {"sliding_attention"}},
                     {"sliding_attention_config",
                      {{"ffn", false},
                       {"num_heads", kHeads},
                       {"num_kv_heads", kKvHeads},
                       {"head_dim", kDim},
                       {"rope_theta", kTheta},
                       {"partial_rotary_factor", double(kRotary) / kDim},
                       {"head_gate", true},
                       {"window", window}}}};
  return model::parse_config(json, "test");
}

Tensor run(Machine& machine, const model::Stack& stack, const Tensor& x, const std::vector<int64_t>& pieces) {
  State state;
  std::vector<Tensor> parts;
  for (const int64_t piece : pieces) {
    Seqs seqs = sequences({piece});
    seqs.pos[0] = state.pos();
    std::vector<State*> states{&state};
    StateBatch batch;
    batch.bind(stack.state_layout(), states, std::vector<int64_t>{piece});
    parts.push_back(stack.forward(machine.ctx, x.rows(state.pos(), state.pos() + piece).clone(), seqs, &batch).clone());
    batch.advance(std::vector<int64_t>{piece});
  }
  return joined(parts);
}

TEST(AttentionOptions, AgreeWithF64HoweverTheSequenceIsCut) {
  for (const Isa isa : tested_isas()) {
    for (const int64_t window : {1, 5, 64, 100}) {
      Machine machine(isa);
      KeptParams params(machine.stream);
      const model::Stack stack(config_of(window), Params(params, ""), "test");
      const Tensor x = random_tensor({kRows, kWidth}, 99);
      const Tensor whole = run(machine, stack, x, {kRows});
      // Angles are rounded to f32 (150 * 2^-24 of a turn), and norms follow norms.
      EXPECT_LT(relative_error(whole.f32(), reference(params.kept, x, window)), 2e-5) << window;
      EXPECT_TRUE(same_bits(run(machine, stack, x, std::vector<int64_t>(kRows, 1)), whole)) << window;
      EXPECT_TRUE(same_bits(run(machine, stack, x, {7, 60, 1, 64, 18}), whole)) << window;
    }
  }
}

TEST(AttentionOptions, WrongRotationsAreRefused) {
  for (const double factor : {0.0, 0.2, 0.4}) {  // 0, 1 and 3 of 8
    Machine machine;
    KeptParams params(machine.stream);
    model::ModelConfig config = config_of(4);
    config.sublayers[0].options["partial_rotary_factor"] = factor;
    EXPECT_THROW(model::Stack(config, Params(params, ""), "test"), Error) << factor;
  }
}

}  // namespace
}  // namespace carousel
