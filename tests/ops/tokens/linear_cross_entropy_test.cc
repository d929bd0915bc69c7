// SPDX-License-Identifier: Apache-2.0
// The head with its loss, and the look-up of tokens: values and gradients against central differences in f64, skipped
// targets, and bits under threads and cuts.
#include "carousel/ops/tokens/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/tokens/cross_entropy.h"
#include "carousel/ops/tokens/embedding.h"
#include "tests/isas.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

constexpr int64_t kV = 67, kD = 24;

std::vector<int32_t> random_targets(int64_t count, uint64_t seed) {
  std::vector<int32_t> targets;
  Rng rng(seed);
  for (int64_t n = 0; n < count; ++n) targets.push_back(static_cast<int32_t>(rng.uniform() * 67));
  return targets;
}

double loss_in_f64(const std::vector<double>& hidden, const std::vector<double>& head, const std::vector<double>& bias,
                   const std::vector<int32_t>& targets, double cap) {
  double sum = 0;
  for (size_t n = 0; n < targets.size(); ++n) {
    if (targets[n] < 0) continue;
    std::vector<double> z(kV);
    double total = 0;
    for (size_t v = 0; v < kV; ++v) {
      z[v] = bias[v];
      for (size_t d = 0; d < kD; ++d) z[v] += hidden[n * kD + d] * head[v * kD + d];
      if (cap > 0) z[v] = cap * std::tanh(z[v] / cap);
      total += std::exp(z[v]);
    }
    sum += std::log(total) - z[static_cast<size_t>(targets[n])];
  }
  return sum;
}

TEST(LinearCrossEntropy, HasTheSlopesOfTheLoss) {
  constexpr float kScale = 0.25f;
  for (const Isa isa : tested_isas()) {
    for (const float cap : {0.0f, 3.0f}) {
      Taped t(isa);
      const Tensor master = random_tensor({kV, kD}, 1, 0.4f), values = random_tensor({133, kD}, 3);
      Weight head = Weight::of_master(t.stream, master, Weight::Layout::kPanels);
      head.bias = random_tensor({kV}, 2);
      const auto d_w = t.parameter(master), d_b = t.parameter(head.bias);
      std::vector<int32_t> targets = random_targets(133, 4);
      targets[5] = targets[64] = targets[132] = -1;
      const Tensor x = t.input(values);
      Ctx plain{t.stream, t.arena};
      Grads grads(t.tape);
      const ops::Targets checked = ops::training_targets(plain, targets, kV);
      const Tensor nll = ops::linear_cross_entropy(plain, x, {head, cap}, checked, &grads, kScale);
      std::vector<double> at_x = to_f64(values), at_w = to_f64(master), at_b = to_f64(head.bias);
      const auto loss = [&] { return double{kScale} * loss_in_f64(at_x, at_w, at_b, targets, double{cap}); };
      double sum = 0;
      for (int64_t n = 0; n < 133; ++n) sum += double{nll.f32()[n]};
      EXPECT_NEAR(sum * double{kScale}, loss(), 1e-4);
      EXPECT_EQ(nll.f32()[64], 0.0f);
      const Tensor d_x = grads.take(plain, x);
      EXPECT_LT(gradient_error(loss, at_x, d_x.f32()), 1e-6);
      EXPECT_LT(gradient_error(loss, at_w, d_w->data()), 1e-6);
      EXPECT_LT(gradient_error(loss, at_b, d_b->data()), 1e-6);
      for (int64_t d = 0; d < kD; ++d) EXPECT_EQ(d_x.f32()[64 * kD + d], 0.0f);
    }
  }
}

struct Result {
  std::vector<float> nll, d_x, d_w;
  bool operator==(const Result&) const = default;
};

Result run(int threads, const std::vector<int64_t>& cuts, const Tensor& values, const std::vector<int32_t>& targets) {
  Taped t(cpu::best_isa(), threads);
  const Tensor master = random_tensor({kV, kD}, 1);
  const Weight head = Weight::of_master(t.stream, master, Weight::Layout::kPanels);
  const auto d_w = t.parameter(master);
  Ctx plain{t.stream, t.arena};
  Result out;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const Tensor x = t.input(values.rows(cuts[i], cuts[i + 1]));
    Grads grads(t.tape);
    const std::span<const int32_t> part(targets.data() + cuts[i], static_cast<size_t>(cuts[i + 1] - cuts[i]));
    const Tensor nll =
        ops::linear_cross_entropy(plain, x, {head}, ops::training_targets(plain, part, kV), &grads, 0.5f);
    out.nll.insert(out.nll.end(), nll.f32(), nll.f32() + nll.count());
    const Tensor d_x = grads.take(plain, x);
    out.d_x.insert(out.d_x.end(), d_x.f32(), d_x.f32() + d_x.count());
  }
  out.d_w = *d_w;
  return out;
}

TEST(LinearCrossEntropy, ThreadsAndCutsChangeNoBit) {
  const Tensor x = random_tensor({1300, kD}, 5);
  std::vector<int32_t> targets = random_targets(1300, 6);
  for (size_t n = 0; n < targets.size(); n += 7) targets[n] = -1;
  const Result want = run(1, {0, 1300}, x, targets);
  EXPECT_TRUE(run(3, {0, 1300}, x, targets) == want);
  EXPECT_TRUE(run(2, {0, 9, 600, 1300}, x, targets) == want);
}

TEST(LinearCrossEntropy, AgreesWithTheLossOfWholeLogits) {
  Machine m;
  const Weight head = Weight::of_master(m.stream, random_tensor({kV, kD}, 1), Weight::Layout::kPanels);
  const Tensor x = random_tensor({40, kD}, 2);
  const std::vector<int32_t> targets = random_targets(40, 3);
  const Tensor whole = ops::cross_entropy(m.ctx, ops::linear(m.ctx, x, {&head}), ops::target_ids(m.ctx, targets, kV));
  const Tensor fused = ops::linear_cross_entropy(m.ctx, x, {head}, ops::training_targets(m.ctx, targets, kV));
  EXPECT_TRUE(same_bits(whole, fused));
}

TEST(LinearCrossEntropy, RefusesTargetsOutside) {
  Machine m;
  EXPECT_THROW(ops::training_targets(m.ctx, std::vector<int32_t>{0, -2}, kV), Error);
  EXPECT_THROW(ops::training_targets(m.ctx, std::vector<int32_t>{67}, kV), Error);
}

TEST(EmbeddingBackward, AddsRowsInOrderToTheTablesOwnGradient) {
  for (const bool shared : {false, true}) {
    Taped t;
    const Tensor master = random_tensor({kV, kD}, 1);
    const auto layout = shared ? Weight::Layout::kPanels : Weight::Layout::kRows;
    const Weight table = Weight::of_master(t.stream, master, layout);
    std::vector<float> gradient(static_cast<size_t>(kV * kD)), looked_up(gradient);
    t.trained.add(master, gradient.data(), shared ? looked_up.data() : nullptr);
    const std::vector<int32_t> ids = random_targets(500, 2);
    Ctx plain{t.stream, t.arena};
    const Tensor x = ops::embedding(t.ctx, ops::token_ids(plain, ids, kV), table);
    for (int64_t i = 0; i < kD; ++i) EXPECT_EQ(x.f32()[i], master.f32()[ids[0] * kD + i]);
    const Tensor d = random_tensor(x.shape(), 3);
    std::vector<float> want(gradient.size());
    for (size_t n = 0; n < ids.size(); ++n) {
      for (size_t j = 0; j < kD; ++j) want[static_cast<size_t>(ids[n]) * kD + j] += d.f32()[n * kD + j];
    }
    t.backward({{x, d}});
    EXPECT_EQ(shared ? looked_up : gradient, want);
    if (shared) {
      EXPECT_EQ(gradient, std::vector<float>(want.size()));
    }
  }
}

// As torch.nn.Embedding with padding_idx.
TEST(EmbeddingBackward, AddsNothingToTheRowOfThePadding) {
  Taped t;
  const Tensor master = random_tensor({kV, kD}, 1);
  const Weight table = Weight::of_master(t.stream, master, Weight::Layout::kRows);
  std::vector<float> gradient(static_cast<size_t>(kV * kD));
  t.trained.add(master, gradient.data(), nullptr);
  const std::vector<int32_t> ids = {3, 5, 3, 7};
  Ctx plain{t.stream, t.arena};
  const Tensor x = ops::embedding(t.ctx, ops::token_ids(plain, ids, kV), table, 3);
  const Tensor d = random_tensor(x.shape(), 3);
  t.backward({{x, d}});
  for (size_t j = 0; j < kD; ++j) {
    EXPECT_EQ(gradient[3 * kD + j], 0);
    EXPECT_EQ(gradient[5 * kD + j], d.f32()[1 * kD + j]);
    EXPECT_EQ(gradient[7 * kD + j], d.f32()[3 * kD + j]);
  }
}

TEST(EmbeddingBackward, AgreesWithCentralDifferences) {
  Taped t;
  const Tensor master = random_tensor({kV, kD}, 1);
  const Weight table = Weight::of_master(t.stream, master, Weight::Layout::kRows);
  const auto d_table = t.parameter(master);
  const std::vector<int32_t> ids = random_targets(500, 2);
  Ctx plain{t.stream, t.arena};
  const Tensor x = ops::embedding(t.ctx, ops::token_ids(plain, ids, kV), table), d = random_tensor(x.shape(), 3);
  t.backward({{x, d}});
  std::vector<double> rows = to_f64(master);
  const auto loss = [&] {
    std::vector<double> looked_up;
    for (const int32_t id : ids) {
      looked_up.insert(looked_up.end(), rows.begin() + id * kD, rows.begin() + (id + 1) * kD);
    }
    return weighted_sum(d, looked_up);
  };
  EXPECT_LT(gradient_error(loss, rows, d_table->data(), rows.size()), 1e-6);
}

}  // namespace
}  // namespace carousel
