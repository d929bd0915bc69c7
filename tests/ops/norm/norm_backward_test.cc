// SPDX-License-Identifier: Apache-2.0
// Gradients of the norms against central differences in f64, and their bits.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "carousel/ops/norm/norm.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"
#include "tests/ops/norm/norm_reference.h"

namespace carousel {
namespace {

using ops::Norm;
using ops::NormGate;

// Rows and widths cross blocks of columns, chunks of rows and the lanes of every set.
constexpr int64_t kRows = 67;

struct Case {
  Norm::Kind kind;
  int64_t heads, dv;
  bool weight, bias;
  float offset = 0;
  NormGate::Kind gate = NormGate::Kind::kNone;
  bool skip = false;

  int64_t width() const { return heads * dv; }
};

Norm norm_of(const Case& c) {
  Norm norm;
  norm.kind = c.kind;
  norm.eps = 1e-3f;
  norm.weight_offset = c.offset;
  if (c.weight) norm.weight = random_tensor({c.width()}, 91, 0.5f, 1.0f);
  if (c.bias) norm.bias = random_tensor({c.width()}, 92);
  return norm;
}

std::vector<double> values_of(const Tensor& tensor) {
  return tensor.defined() ? to_f64(tensor) : std::vector<double>();
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// What the norms read, in f64.
struct Values {
  std::vector<double> x, pre, skip, skip_weight;
  NormValues norm;

  std::vector<double> out(const Case& c, const Norm& norm_args) const {
    std::vector<double> y;
    const auto dv = static_cast<size_t>(c.dv), heads = static_cast<size_t>(c.heads);
    for (size_t first = 0; first < x.size(); first += dv) {
      const std::vector<double> head = normed_reference(x, first, dv, norm_args, norm, first / dv % heads * dv);
      y.insert(y.end(), head.begin(), head.end());
    }
    for (size_t i = 0; i < y.size(); ++i) {
      if (c.skip) y[i] += skip_weight[i % skip_weight.size()] * skip[i];
      if (c.gate == NormGate::Kind::kSigmoid) y[i] *= sigmoid(pre[i]);
      if (c.gate == NormGate::Kind::kSilu) y[i] *= pre[i] * sigmoid(pre[i]);
    }
    return y;
  }
};

/// Gradients of everything that a norm read.
struct Gradients {
  Tensor x, y, pre, skip;
  std::shared_ptr<std::vector<float>> weight, bias, skip_weight;
};

bool same(const Tensor& a, const Tensor& b) { return a.defined() == b.defined() && (!a.defined() || same_bits(a, b)); }
bool same(const std::shared_ptr<std::vector<float>>& a, const std::shared_ptr<std::vector<float>>& b) {
  return (a == nullptr) == (b == nullptr) && (a == nullptr || same_bits(a->data(), b->data(), int64_t(a->size())));
}

void expect_same(const Gradients& a, const Gradients& b) {
  EXPECT_TRUE(same(a.x, b.x));
  EXPECT_TRUE(same(a.pre, b.pre));
  EXPECT_TRUE(same(a.skip, b.skip));
  EXPECT_TRUE(same(a.weight, b.weight));
  EXPECT_TRUE(same(a.bias, b.bias));
  EXPECT_TRUE(same(a.skip_weight, b.skip_weight));
}

/// Columns 1 to 1 + width of a wider tensor.
Tensor within_wider(Taped& t, const Tensor& values) {
  const Tensor wide = random_tensor({values.dim(0), values.dim(1) + 2}, 5);
  for (int64_t n = 0; n < values.dim(0); ++n) {
    std::memcpy(wide.f32() + n * wide.dim(1) + 1, values.f32() + n * values.dim(1),
                static_cast<size_t>(values.dim(1)) * sizeof(float));
  }
  return t.input(wide);
}

Tensor inner_columns(const Tensor& wide) {
  Tensor out({wide.dim(0), wide.dim(1) - 2}, DType::kF32);
  for (int64_t n = 0; n < wide.dim(0); ++n) {
    std::memcpy(out.f32() + n * out.dim(1), wide.f32() + n * wide.dim(1) + 1,
                static_cast<size_t>(out.dim(1)) * sizeof(float));
  }
  return out;
}

struct Inputs {
  Tensor h, pre, skip, skip_weight, d;
};
Inputs inputs_of(const Case& c, int64_t rows = kRows) {
  const Shape shape = {rows, c.width()};
  return {random_tensor(shape, 1, 1.0f, 0.3f), random_tensor(shape, 2), random_tensor(shape, 3),
          random_tensor({c.width()}, 4), random_tensor(shape, 6)};
}

/// head_norm and its gradients over the rows [begin, end), micro-batch after micro-batch.
Gradients run_heads(Taped& t, const Case& c, const Norm& norm, const Inputs& in, const std::vector<int64_t>& cuts) {
  Gradients out;
  if (c.weight) out.weight = t.parameter(norm.weight);
  if (c.bias) out.bias = t.parameter(norm.bias);
  if (c.skip) out.skip_weight = t.parameter(in.skip_weight);
  int64_t begin = 0;
  for (const int64_t end : cuts) {
    const Tensor h = t.input(in.h.rows(begin, end));
    NormGate gate = {c.gate, {}, {}, {}};
    if (c.gate != NormGate::Kind::kNone) gate.pre = columns(within_wider(t, in.pre.rows(begin, end)), 1, c.width());
    if (c.skip) {
      gate.skip = columns(within_wider(t, in.skip.rows(begin, end)), 1, c.width());
      gate.skip_weight = in.skip_weight;
    }
    const Tensor y = ops::head_norm(t.ctx, h, c.heads, norm, gate);
    Machine plain(t.stream.isa);
    EXPECT_TRUE(same_bits(y, ops::head_norm(plain.ctx, in.h.rows(begin, end), c.heads, norm, gate)));
    t.backward({{y, in.d.rows(begin, end)}});
    out.x = t.gradient(h);
    if (c.gate != NormGate::Kind::kNone) out.pre = inner_columns(t.gradient(gate.pre.of));
    if (c.skip) out.skip = inner_columns(t.gradient(gate.skip.of));
    begin = end;
  }
  return out;
}

std::vector<Case> head_cases() {
  using K = Norm::Kind;
  using G = NormGate::Kind;
  return {{K::kRms, 3, 33, true, false, 0, G::kSigmoid},      {K::kLayer, 2, 64, true, true, 1, G::kSilu, true},
          {K::kNone, 2, 17, true, true, 0, G::kSigmoid},      {K::kRms, 2, 300, true, true, 1, G::kNone, true},
          {K::kLayer, 4, 16, false, false, 0, G::kNone},      {K::kNone, 1, 5, false, false, 0, G::kSilu},
          {K::kLayer, 1, 270, true, false, 0, G::kSilu, true}};
}

TEST(HeadNormBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const Case& c : head_cases()) {
      Taped t(isa);
      const Norm norm = norm_of(c);
      const Inputs in = inputs_of(c);
      const Gradients got = run_heads(t, c, norm, in, {kRows});
      Values values = {to_f64(in.h),
                       to_f64(in.pre),
                       to_f64(in.skip),
                       to_f64(in.skip_weight),
                       {values_of(norm.weight), values_of(norm.bias)}};
      const auto loss = [&] { return weighted_sum(in.d, values.out(c, norm)); };
      const auto check = [&](const char* name, std::vector<double>& at, const float* gradient) {
        EXPECT_LT(gradient_error(loss, at, gradient, 100), 1e-6)
            << cpu::isa_name(isa) << " " << name << " kind " << int(c.kind) << " heads " << c.heads << " dv " << c.dv;
      };
      check("x", values.x, got.x.f32());
      if (got.pre.defined()) check("pre", values.pre, got.pre.f32());
      if (got.skip.defined()) check("skip", values.skip, got.skip.f32());
      if (c.weight) check("weight", values.norm.weight, got.weight->data());
      if (c.bias) check("bias", values.norm.bias, got.bias->data());
      if (c.skip) check("skip_weight", values.skip_weight, got.skip_weight->data());
    }
  }
}

TEST(HeadNormBackward, ThreadsAndMicroBatchesChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    for (const Case& c : head_cases()) {
      const Norm norm = norm_of(c);
      const Inputs in = inputs_of(c, 700);
      Taped one(isa, 1), two(isa, 2), three(isa, 3), cut(isa, 3);
      const Gradients whole = run_heads(one, c, norm, in, {700});
      expect_same(run_heads(two, c, norm, in, {700}), whole);
      expect_same(run_heads(three, c, norm, in, {700}), whole);
      Gradients parts = run_heads(cut, c, norm, in, {1, 65, 700});
      parts.x = whole.x;
      parts.pre = whole.pre;
      parts.skip = whole.skip;
      expect_same(parts, whole);
    }
  }
}

std::vector<Case> row_cases() {
  using K = Norm::Kind;
  return {{K::kRms, 1, 96, true, false},
          {K::kLayer, 1, 257, true, true, 1},
          {K::kRms, 1, 13, false, true},
          {K::kLayer, 1, 64, false, false},
          {K::kNone, 1, 33, false, false}};
}

/// add_norm of x and y, with gradients of the outputs that `sums` and `norms` name.
Gradients run_rows(Taped& t, const Case& c, const Norm& norm, const Inputs& in, bool sums, bool norms) {
  Gradients out;
  if (c.weight) out.weight = t.parameter(norm.weight);
  if (c.bias) out.bias = t.parameter(norm.bias);
  const Tensor x = t.input(in.h), y = t.input(in.pre);
  const ops::AddNorm result = ops::add_norm(t.ctx, x, y, norm);
  std::vector<std::pair<Tensor, Tensor>> outputs;
  if (norms) outputs.push_back({result.normed, in.d});
  if (sums) outputs.push_back({result.sum, in.skip});
  t.backward(outputs);
  out.x = t.gradient(x);
  out.y = t.gradient(y);
  return out;
}

TEST(AddNormBackward, AgreesWithCentralDifferences) {
  for (const Isa isa : tested_isas()) {
    for (const Case& c : row_cases()) {
      for (const int which : {1, 2, 3}) {
        const bool sums = which % 2 == 1, norms = which >= 2;
        Taped t(isa);
        const Norm norm = norm_of(c);
        const Inputs in = inputs_of(c);
        const Gradients got = run_rows(t, c, norm, in, sums, norms);
        Values values = {to_f64(in.h), to_f64(in.pre), {}, {}, {values_of(norm.weight), values_of(norm.bias)}};
        const std::vector<double> x = values.x;
        std::vector<double> added = x;  // x, which moves, while values.x is x + y
        const auto loss = [&] {
          for (size_t i = 0; i < x.size(); ++i) values.x[i] = added[i] + values.pre[i];
          return (norms ? weighted_sum(in.d, values.out(c, norm)) : 0) + (sums ? weighted_sum(in.skip, values.x) : 0);
        };
        EXPECT_LT(gradient_error(loss, added, got.x.f32(), 100), 1e-6) << int(c.kind) << " width " << c.dv;
        EXPECT_TRUE(same_bits(got.x, got.y));
        if (!norms) continue;
        if (c.weight) {
          EXPECT_LT(gradient_error(loss, values.norm.weight, got.weight->data(), 100), 1e-6);
        }
        if (c.bias) {
          EXPECT_LT(gradient_error(loss, values.norm.bias, got.bias->data(), 100), 1e-6);
        }
      }
    }
  }
}

TEST(AddNormBackward, NothingToAddRecordsTheNormAlone) {
  const Case c = {Norm::Kind::kLayer, 1, 50, true, true};
  Taped t, with_zeros;
  const Norm norm = norm_of(c);
  const Inputs in = inputs_of(c);
  const auto weight = t.parameter(norm.weight);
  const Tensor x = t.input(in.h);
  const ops::AddNorm out = ops::add_norm(t.ctx, x, {}, norm);
  EXPECT_EQ(out.sum.id(), x.id());
  t.backward({{out.normed, in.d}, {out.sum, in.skip}});
  Inputs plus_zero = in;
  plus_zero.pre = Tensor(in.h.shape(), DType::kF32);
  const Gradients expected = run_rows(with_zeros, c, norm, plus_zero, true, true);
  EXPECT_TRUE(same_bits(t.gradient(x), expected.x));
  EXPECT_EQ(*weight, *expected.weight);
  const size_t before = t.tape.nodes();
  ops::add_norm(t.ctx, x, {}, {Norm::Kind::kNone, 1e-6f, {}, 0, {}});
  EXPECT_EQ(t.tape.nodes(), before);
}

TEST(AddNormBackward, OnlyTheParametersMayBeTrained) {
  const Case c = {Norm::Kind::kRms, 1, 40, true, false};
  Taped t, all;
  const Norm norm = norm_of(c);
  const Inputs in = inputs_of(c);
  const auto weight = t.parameter(norm.weight);
  Machine plain;
  const Tensor normed = ops::add_norm(t.ctx, in.h, in.pre, norm).normed;
  EXPECT_TRUE(same_bits(normed, ops::add_norm(plain.ctx, in.h, in.pre, norm).normed));
  t.backward({{normed, in.d}});
  EXPECT_EQ(*weight, *run_rows(all, c, norm, in, false, true).weight);
}

TEST(AddNormBackward, ThreadsAndNeighboursChangeNoBit) {
  for (const Isa isa : tested_isas()) {
    const Case c = {Norm::Kind::kLayer, 1, 600, true, true};
    const Norm norm = norm_of(c);
    const Inputs in = inputs_of(c, 500);
    for (int64_t i = 0; i < 40 * c.width(); ++i) in.d.f32()[i] = in.skip.f32()[i] = 0;
    Taped one(isa, 1), three(isa, 3), alone(isa, 2);
    const Gradients whole = run_rows(one, c, norm, in, true, true);
    expect_same(run_rows(three, c, norm, in, true, true), whole);
    Inputs own = in;
    for (Tensor* tensor : {&own.h, &own.pre, &own.skip, &own.d}) *tensor = tensor->rows(40, 500);
    Gradients rest = run_rows(alone, c, norm, own, true, true);
    EXPECT_TRUE(same_bits(rest.x, whole.x.rows(40, 500)));
    EXPECT_EQ(*rest.weight, *whole.weight);
    EXPECT_EQ(*rest.bias, *whole.bias);
  }
}

TEST(AddNormBackward, NoRowsAreNoNode) {
  Taped t;
  const Case c = {Norm::Kind::kRms, 1, 8, true, false};
  const Norm norm = norm_of(c);
  t.parameter(norm.weight);
  const Tensor x = t.input(Tensor({0, 8}, DType::kF32));
  EXPECT_EQ(ops::add_norm(t.ctx, x, x, norm).normed.dim(0), 0);
  EXPECT_EQ(t.tape.nodes(), 0u);
}

}  // namespace
}  // namespace carousel
