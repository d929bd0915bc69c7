// SPDX-License-Identifier: Apache-2.0
// What each key of a numeric profile does to an op: the predicted difference, on every instruction set.
#include "carousel/ops/numerics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "carousel/core/dtype.h"
#include "carousel/ops/attention/attention.h"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/block_linear.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/norm/norm.h"
#include "carousel/ops/rounding/rounding.h"
#include "carousel/ops/short_conv/short_conv.h"
#include "carousel/ops/tokens/embedding.h"
#include "tests/isas.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

float bf16(double x) { return to_float(to_bf16(static_cast<float>(x))); }
float maybe(DType dtype, double x) { return dtype == DType::kBF16 ? bf16(x) : static_cast<float>(x); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// A machine whose ops run under `numerics`.
struct Profiled {
  Profiled(Isa isa, const Numerics& given) : machine(isa), numerics(given) {}
  Machine machine;
  Numerics numerics;
  Ctx ctx{machine.stream, machine.arena, numerics};
};

Numerics with(void (*change)(Numerics&)) {
  Numerics numerics;
  change(numerics);
  return numerics;
}
const Numerics kActivations = with([](Numerics& n) { n.activations = DType::kBF16; });
const Numerics kGates = with([](Numerics& n) { n.gates = DType::kBF16; });

/// Elements that are not `expected`: where a value lies near the middle of two bf16 values, either may be taken.
int64_t misses(const Tensor& got, const std::vector<float>& expected) {
  EXPECT_EQ(got.count(), static_cast<int64_t>(expected.size()));
  int64_t count = 0;
  for (size_t i = 0; i < expected.size(); ++i) count += got.f32()[i] != expected[i] ? 1 : 0;
  return count;
}
int64_t few(const Tensor& of) { return of.count() / 50; }

Tensor bf16_tensor(Shape shape, uint64_t seed, float scale = 1.0f) {
  Tensor out = random_tensor(shape, seed, scale);
  for (int64_t i = 0; i < out.count(); ++i) out.f32()[i] = bf16(out.f32()[i]);
  return out;
}

TEST(Rounding, IsThatOfTheDType) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    Tensor x = random_tensor({7, 37}, 1, 100.0f);
    const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, 1.00390625f, 1.01171875f, 3.4e38f, -3.4e38f, 1e-40f};
    std::copy(std::begin(special), std::end(special), x.f32());
    std::vector<float> expected;
    for (int64_t i = 0; i < x.count(); ++i) expected.push_back(bf16(x.f32()[i]));
    ops::round_to(machine.ctx, x, DType::kF32);
    EXPECT_EQ(x.f32()[20], random_tensor({7, 37}, 1, 100.0f).f32()[20]);
    ops::round_to(machine.ctx, x, DType::kBF16);
    EXPECT_EQ(misses(x, expected), 0);
    EXPECT_TRUE(std::signbit(x.f32()[1]));
    x.f32()[3] = std::numeric_limits<float>::quiet_NaN();
    ops::round_to(machine.ctx, x, DType::kBF16);
    EXPECT_TRUE(std::isnan(x.f32()[3]));
  }
}

TEST(Rounding, OfColumnsLeavesTheOthersAlone) {
  Machine machine;
  const Tensor before = random_tensor({3, 8}, 2), x = before.clone();
  ops::round_to(machine.ctx, columns(x, 2, 4), DType::kBF16);
  for (int64_t i = 0; i < x.count(); ++i) {
    const bool inside = i % 8 >= 2 && i % 8 < 6;
    EXPECT_EQ(x.f32()[i], inside ? bf16(before.f32()[i]) : before.f32()[i]) << i;
  }
}

TEST(Activations, ProductsAndLookUpsAreRounded) {
  Profiled narrow(cpu::best_isa(), kActivations);
  Machine machine;
  const Tensor values = random_tensor({40, 24}, 3);
  Weight panels(40, 24, DType::kF32, Weight::Layout::kPanels), rows(40, 24, DType::kF32, Weight::Layout::kRows);
  panels.write_rows(machine.stream, 0, 40, values.raw());
  rows.write_rows(machine.stream, 0, 40, values.raw());
  const ops::BlockWeight blocks = formed(ops::BlockWeight(random_tensor({6, 4, 4}, 4), Tensor()));
  const Tensor x = random_tensor({5, 24}, 5);
  const std::vector<int32_t> ids = {39, 0};
  const ops::Ids tokens = ops::token_ids(machine.ctx, ids, 40);
  const auto expect_rounded = [&](const Tensor& native, const Tensor& rounded) {
    for (int64_t i = 0; i < native.count(); ++i) EXPECT_EQ(rounded.f32()[i], bf16(native.f32()[i]));
  };
  expect_rounded(ops::linear(machine.ctx, x, {&panels}), ops::linear(narrow.ctx, x, {&panels}));
  expect_rounded(ops::embedding(machine.ctx, tokens, rows), ops::embedding(narrow.ctx, tokens, rows));
  expect_rounded(ops::block_linear(machine.ctx, {{columns(x), &blocks}}),
                 ops::block_linear(narrow.ctx, {{columns(x), &blocks}}));
}

// round(round(silu(gate)) * up), each rounding by its own key.
TEST(Gates, AndActivationsRoundAUnitsTwoHalves) {
  for (const Isa isa : tested_isas()) {
    const Tensor x = random_tensor({3, 2 * 37}, 6);
    for (const Numerics& numerics : {kActivations, kGates}) {
      Profiled profiled(isa, numerics);
      const Tensor got = ops::swiglu(profiled.ctx, x);
      std::vector<float> expected;
      for (int64_t n = 0; n < 3; ++n) {
        for (int64_t j = 0; j < 37; ++j) {
          const double g = x.f32()[n * 74 + j];
          const float gate = maybe(numerics.gates, g * sigmoid(g));
          expected.push_back(maybe(numerics.activations, gate * x.f32()[n * 74 + 37 + j]));
        }
      }
      if (numerics.activations == DType::kBF16) {
        EXPECT_LE(misses(got, expected), few(got));
      } else {
        EXPECT_LE(relative_error(got.f32(), {expected.begin(), expected.end()}), 1e-3);
        EXPECT_GT(relative_error(ops::swiglu(profiled.machine.ctx, x).f32(), {expected.begin(), expected.end()}), 1e-3);
      }
    }
  }
}

TEST(Gates, OfHeadsAndOutputsAreRounded) {
  for (const Isa isa : tested_isas()) {
    Profiled profiled(isa, kGates);
    const Tensor gate = random_tensor({4, 2}, 7), x = random_tensor({4, 6}, 8);
    const Tensor y = ops::gate_heads(profiled.ctx, x, gate);
    for (int64_t i = 0; i < x.count(); ++i) {
      EXPECT_EQ(y.f32()[i], x.f32()[i] * bf16(sigmoid(double{gate.f32()[i / 3]}))) << i;
    }
    const Tensor pre = random_tensor({4, 6}, 9);
    ops::Norm none;
    none.kind = ops::Norm::Kind::kNone;
    const Tensor gated =
        ops::head_norm(profiled.ctx, x, 2, none, {ops::NormGate::Kind::kSigmoid, columns(pre), {}, {}});
    for (int64_t i = 0; i < x.count(); ++i) {
      EXPECT_EQ(gated.f32()[i], bf16(sigmoid(double{pre.f32()[i]})) * x.f32()[i]) << i;
    }
  }
}

TEST(SoftCap, RoundsEachOfItsOperations) {
  for (const Isa isa : tested_isas()) {
    Machine machine(isa);
    const Tensor x = random_tensor({5, 33}, 10, 20.0f), got = x.clone();
    ops::soft_cap(machine.ctx, got, 15.0f, DType::kBF16);
    std::vector<float> expected;
    for (int64_t i = 0; i < x.count(); ++i) {
      expected.push_back(bf16(15.0f * bf16(std::tanh(double{bf16(x.f32()[i] / 15.0f)}))));
    }
    EXPECT_LE(misses(got, expected), few(got));
  }
}

TEST(Gelu, ByTanhIsItsApproximation) {
  Numerics numerics;
  numerics.gelu_tanh = true;
  for (const Isa isa : tested_isas()) {
    Profiled profiled(isa, numerics);
    const Tensor x = random_tensor({2, 80}, 11, 2.0f);
    const Tensor erf = ops::gated_unit(profiled.machine.ctx, x, ops::Activation::kGelu);
    const Tensor by_tanh = ops::gated_unit(profiled.ctx, x, ops::Activation::kGelu);
    double largest = 0;
    for (int64_t i = 0; i < erf.count(); ++i) {
      const double g = x.f32()[i / 40 * 80 + i % 40], up = x.f32()[i / 40 * 80 + 40 + i % 40];
      const double approximate = 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
      EXPECT_NEAR(by_tanh.f32()[i], approximate * up, 2e-6 * (1 + std::abs(g * up)));
      largest = std::max(largest, std::abs(double{erf.f32()[i]} - double{by_tanh.f32()[i]}));
    }
    EXPECT_GT(largest, 1e-5);
    EXPECT_LT(largest, 1e-2);
    // Other activations have no such form.
    EXPECT_TRUE(same_bits(ops::swiglu(profiled.ctx, x), ops::swiglu(profiled.machine.ctx, x)));
  }
}

struct NormCase {
  const char* name;
  Numerics numerics;
  ops::Norm::Kind kind;
};

/// The norm of one row as its rule has it, from f64.
std::vector<float> predicted(const NormCase& c, const float* x, const ops::Norm& norm, int64_t width) {
  const Numerics::Norm& rule = c.numerics.norm;
  const auto reduced = [&](double v) { return static_cast<double>(maybe(rule.reduction, v)); };
  double mean = 0, squares = 0;
  for (int64_t j = 0; j < width && c.kind == ops::Norm::Kind::kLayer; ++j) mean += double{x[j]} / double(width);
  for (int64_t j = 0; j < width; ++j) {
    const double v = x[j];
    squares += c.kind == ops::Norm::Kind::kLayer ? (v - mean) * (v - mean) : reduced(v * v);
  }
  const double variance = reduced(squares / double(rule.unbiased_variance ? width - 1 : width));
  const double eps = norm.eps;
  const double scale = rule.eps_outside_root ? reduced(1 / reduced(reduced(std::sqrt(variance)) + eps))
                                             : reduced(1 / std::sqrt(reduced(variance + eps)));
  std::vector<float> out;
  for (int64_t j = 0; j < width; ++j) {
    double v = reduced(reduced(double{x[j]} - reduced(mean)) * scale);
    if (rule.cast_before_weight) v = maybe(c.numerics.activations, v);
    out.push_back(maybe(c.numerics.activations, v * double{norm.weight.f32()[j]}));
  }
  return out;
}

TEST(Norms, FollowTheRuleOfTheProfile) {
  const auto rule = [](void (*change)(Numerics&)) { return with(change); };
  const NormCase cases[] = {
      {"eps outside", rule([](Numerics& n) { n.norm.eps_outside_root = true; }), ops::Norm::Kind::kRms},
      {"unbiased", rule([](Numerics& n) { n.norm.unbiased_variance = true; }), ops::Norm::Kind::kLayer},
      {"reduction", rule([](Numerics& n) { n.norm.reduction = DType::kBF16; }), ops::Norm::Kind::kRms},
      {"reduction of a layer norm", rule([](Numerics& n) { n.norm.reduction = DType::kBF16; }),
       ops::Norm::Kind::kLayer},
      {"cast after", kActivations, ops::Norm::Kind::kRms},
      {"cast before", rule([](Numerics& n) {
         n.activations = DType::kBF16;
         n.norm.cast_before_weight = true;
       }),
       ops::Norm::Kind::kLayer},
  };
  for (const Isa isa : tested_isas()) {
    for (const NormCase& c : cases) {
      Profiled profiled(isa, c.numerics);
      ops::Norm norm;
      norm.kind = c.kind;
      norm.eps = 0.1f;
      norm.weight = bf16_tensor({37}, 12);
      const Tensor x = bf16_tensor({9, 37}, 13, 0.5f);
      std::vector<float> expected;
      for (int64_t n = 0; n < 9; ++n) {
        const std::vector<float> row = predicted(c, x.f32() + n * 37, norm, 37);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      const std::vector<double> exact(expected.begin(), expected.end());
      const Tensor got = ops::add_norm(profiled.ctx, x, {}, norm).normed;
      const Tensor native = ops::add_norm(profiled.machine.ctx, x, {}, norm).normed;
      const double distance = relative_error(got.f32(), exact), of_native = relative_error(native.f32(), exact);
      EXPECT_GT(of_native, 1e-3) << c.name;
      EXPECT_LE(distance, of_native / 4) << c.name;
      if (c.numerics.activations == DType::kBF16) {
        EXPECT_LE(misses(got, expected), few(got)) << c.name;
      }
      // Per head it is the same rule.
      const Tensor heads = ops::head_norm(profiled.ctx, x, 1, norm, {});
      EXPECT_TRUE(same_bits(heads, got)) << c.name;
    }
  }
}

TEST(Norms, SumsAreRoundedBeforeTheyAreNormed) {
  Profiled profiled(cpu::best_isa(), kActivations);
  const Tensor x = random_tensor({3, 20}, 14), y = random_tensor({3, 20}, 15);
  for (const ops::Norm::Kind kind : {ops::Norm::Kind::kNone, ops::Norm::Kind::kRms}) {
    ops::Norm norm;
    norm.kind = kind;
    const ops::AddNorm out = ops::add_norm(profiled.ctx, x, y, norm);
    for (int64_t i = 0; i < x.count(); ++i) EXPECT_EQ(out.sum.f32()[i], bf16(x.f32()[i] + y.f32()[i]));
    EXPECT_TRUE(same_bits(
        out.normed, kind == ops::Norm::Kind::kNone ? out.sum : ops::add_norm(profiled.ctx, out.sum, {}, norm).normed));
  }
}

TEST(Convolutions, RoundTheInputTheSumAndTheGate) {
  for (const Isa isa : tested_isas()) {
    Profiled profiled(isa, kActivations);
    constexpr int64_t kRows = 6, kWidth = 19, kTaps = 3;
    const Tensor bcx = bf16_tensor({kRows, 3 * kWidth}, 16);
    const ops::ConvTaps conv = formed(ops::ConvTaps(bf16_tensor({kWidth, 1, kTaps}, 17), {}));
    const Tensor taps = conv.taps();
    const Tensor got = ops::short_conv(profiled.ctx, bcx, conv, sequences({kRows}), {});
    std::vector<float> expected, silu;
    for (int64_t n = 0; n < kRows; ++n) {
      for (int64_t j = 0; j < kWidth; ++j) {
        double sum = 0, plain = 0;
        for (int64_t k = 0; k < kTaps; ++k) {
          const int64_t t = n - (kTaps - 1) + k;
          if (t < 0) continue;
          const float* row = bcx.f32() + t * 3 * kWidth;
          sum += double{taps.f32()[k * kWidth + j]} * double{bf16(row[j] * row[2 * kWidth + j])};
          plain += double{taps.f32()[k * kWidth + j]} * double{row[j]};
        }
        expected.push_back(bf16(bcx.f32()[n * 3 * kWidth + kWidth + j] * bf16(sum)));
        silu.push_back(bf16(plain * sigmoid(plain)));
      }
    }
    EXPECT_LE(misses(got, expected), few(got));
    Profiled gates(isa, kGates);
    EXPECT_LE(misses(ops::silu_conv(gates.ctx, columns(bcx, 0, kWidth), conv, sequences({kRows}), {}), silu), few(got));
  }
}

/// One head of attention from the definition, rounded as the profile says.
std::vector<float> attended(const Tensor& qkv, const ops::AttentionDims& dims, const Numerics& numerics) {
  const int64_t rows = qkv.dim(0), d = dims.head_dim;
  const Numerics::Attention& rule = numerics.attention;
  const auto rotated = [&](int64_t row, int64_t first) {
    const float* x = qkv.f32() + row * 3 * d + first;
    std::vector<float> out(x, x + d);
    for (int64_t j = 0; j < d / 2; ++j) {
      const double angle = static_cast<float>(row) * dims.inv_freq.f32()[j];
      const float c = maybe(rule.rotary, std::cos(angle)), s = maybe(rule.rotary, std::sin(angle));
      const float a = x[j], b = x[j + d / 2];
      out[static_cast<size_t>(j)] = maybe(numerics.activations, maybe(rule.rotary, a * c) - maybe(rule.rotary, b * s));
      out[static_cast<size_t>(j + d / 2)] =
          maybe(numerics.activations, maybe(rule.rotary, b * c) + maybe(rule.rotary, a * s));
    }
    return out;
  };
  std::vector<float> result;
  for (int64_t t = 0; t < rows; ++t) {
    const std::vector<float> q = rotated(t, 0);
    std::vector<double> scores;
    double total = 0;
    for (int64_t i = 0; i <= t; ++i) {
      const std::vector<float> k = rotated(i, d);
      double dot = 0;
      for (size_t j = 0; j < q.size(); ++j) dot += double{q[j]} * double{k[j]};
      scores.push_back(std::exp(double{maybe(rule.scores, maybe(rule.scores, dot) / std::sqrt(double(d)))}));
      total += scores.back();
    }
    for (int64_t j = 0; j < d; ++j) {
      double value = 0;
      for (int64_t i = 0; i <= t; ++i) {
        value += double{maybe(rule.scores, scores[static_cast<size_t>(i)] / total)} *
                 double{qkv.f32()[i * 3 * d + 2 * d + j]};
      }
      result.push_back(maybe(numerics.activations, value));
    }
  }
  return result;
}

TEST(Attention, RoundsRotationAndScoresAsTheProfileSays) {
  ops::AttentionDims dims;
  dims.heads = dims.kv_heads = 1;
  dims.head_dim = 8;
  dims.inv_freq = Tensor(Shape{4}, DType::kF32);
  for (int64_t j = 0; j < 4; ++j) dims.inv_freq.f32()[j] = 1.0f / static_cast<float>(1 << j);
  const Tensor qkv = bf16_tensor({70, 24}, 18, 2.0f);
  const Numerics cases[] = {kActivations, with([](Numerics& n) { n.attention.rotary = DType::kBF16; }),
                            with([](Numerics& n) { n.attention.scores = DType::kBF16; }), with([](Numerics& n) {
                              n.activations = n.attention.rotary = n.attention.scores = DType::kBF16;
                            })};
  for (const Isa isa : tested_isas()) {
    for (const Numerics& numerics : cases) {
      Profiled profiled(isa, numerics);
      const std::vector<float> expected = attended(qkv, dims, numerics);
      const std::vector<double> exact(expected.begin(), expected.end());
      const Tensor got = ops::attention(profiled.ctx, qkv, dims, sequences({70}), {});
      const Tensor native = ops::attention(profiled.machine.ctx, qkv, dims, sequences({70}), {});
      EXPECT_GT(relative_error(native.f32(), exact), 5e-4);
      EXPECT_LE(relative_error(got.f32(), exact), relative_error(native.f32(), exact) / 4);
    }
    // Its form with nothing rounded is the native one but for the order of sums; windows and groups of heads as there.
    Numerics numerics;
    numerics.norm.eps_outside_root = true;  // acts on no head here: there is no q/k norm
    Profiled profiled(isa, numerics);
    ops::AttentionDims grouped = dims;
    grouped.heads = 2;
    grouped.window = 5;
    const Tensor wide = random_tensor({70, 32}, 19);
    const Tensor native = ops::attention(profiled.machine.ctx, wide, grouped, sequences({30, 40}), {});
    const Tensor got = ops::attention(profiled.ctx, wide, grouped, sequences({30, 40}), {});
    EXPECT_LE(relative_error(got.f32(), {native.f32(), native.f32() + native.count()}), 1e-6);
  }
}

}  // namespace
}  // namespace carousel
