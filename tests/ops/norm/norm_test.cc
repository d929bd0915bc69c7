// SPDX-License-Identifier: Apache-2.0
// The norms against f64, at widths with and without tails, with and without weights; rows do not meet.
#include "carousel/ops/norm/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"
#include "tests/ops/norm/norm_reference.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::Norm;

constexpr Norm::Kind kKinds[] = {Norm::Kind::kNone, Norm::Kind::kRms, Norm::Kind::kLayer};

std::vector<double> values_of(const Tensor& tensor) {
  return tensor.defined() ? std::vector<double>(tensor.f32(), tensor.f32() + tensor.count()) : std::vector<double>();
}

std::vector<double> normed(const float* x, int64_t width, const Norm& norm, int64_t first_weight) {
  return normed_reference(std::vector<double>(x, x + width), 0, static_cast<size_t>(width), norm,
                          {values_of(norm.weight), values_of(norm.bias)}, static_cast<size_t>(first_weight));
}

Norm make_norm(Norm::Kind kind, int64_t width, bool weight, bool bias) {
  Norm norm;
  norm.kind = kind;
  norm.eps = 1e-5f;
  if (weight) norm.weight = random_tensor({width}, 91);
  if (bias) norm.bias = random_tensor({width}, 92);
  return norm;
}

Norm on(const Machine& machine, Norm norm) {
  norm.weight = machine.on(norm.weight);
  norm.bias = machine.on(norm.bias);
  return norm;
}

ops::NormGate on(const Machine& machine, ops::NormGate gate) {
  return {gate.kind, machine.on(gate.pre), machine.on(gate.skip), machine.on(gate.skip_weight)};
}

/// add_norm on the machine, its results on the host.
ops::AddNorm add_norm(Machine& machine, const Tensor& x, const Tensor& y, const Norm& norm) {
  const ops::AddNorm out = ops::add_norm(machine.ctx, machine.on(x), machine.on(y), on(machine, norm));
  return {out.sum.to_host(), out.normed.to_host()};
}

Tensor head_norm(Machine& machine, const Tensor& h, int64_t heads, const Norm& norm, const ops::NormGate& gate) {
  return ops::head_norm(machine.ctx, machine.on(h), heads, on(machine, norm), on(machine, gate)).to_host();
}

TEST(AddNorm, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const Norm::Kind kind : {Norm::Kind::kRms, Norm::Kind::kLayer}) {
      for (const int64_t width : {1, 2, 15, 16, 17, 96, 512, 1001}) {
        for (const bool affine : {false, true}) {
          // A mean of 30 against a spread of 1: the variance must come from the deviations.
          const Tensor x = random_tensor({4, width}, 1, 1.0f, 30.0f), y = random_tensor({4, width}, 2);
          const Norm norm = make_norm(kind, width, affine, affine);
          const ops::AddNorm out = add_norm(machine, x, y, norm);
          for (int64_t n = 0; n < 4; ++n) {
            for (int64_t j = 0; j < width; ++j) {
              const int64_t at = n * width + j;
              ASSERT_EQ(out.sum.f32()[at], x.f32()[at] + y.f32()[at]);
            }
            const std::vector<double> expected = normed(out.sum.f32() + n * width, width, norm, 0);
            if (width == 1 && kind == Norm::Kind::kLayer && !affine) continue;  // exactly 0
            // The mean's rounding, 30 * 2^-24 times a few, against a spread of 1.
            EXPECT_LT(relative_error(out.normed.f32() + n * width, expected), 1e-5) << width;
          }
        }
      }
    }
  }
}

TEST(AddNorm, NothingToAddAndNoNorm) {
  Machine machine;
  const Tensor x = random_tensor({3, 33}, 1), y = random_tensor({3, 33}, 2);
  const ops::AddNorm alone = add_norm(machine, x, {}, make_norm(Norm::Kind::kRms, 33, true, false));
  EXPECT_EQ(alone.sum.raw(), x.raw());
  EXPECT_LT(relative_error(alone.normed.f32(), normed(x.f32(), 33, make_norm(Norm::Kind::kRms, 33, true, false), 0)),
            1e-6);
  const ops::AddNorm none = add_norm(machine, x, y, make_norm(Norm::Kind::kNone, 33, false, false));
  EXPECT_EQ(none.normed.raw(), none.sum.raw());
  EXPECT_EQ(none.sum.f32()[40], x.f32()[40] + y.f32()[40]);
  EXPECT_EQ(add_norm(machine, x.rows(0, 0), {}, {}).normed.dim(0), 0);
}

TEST(AddNorm, NeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    for (const Norm::Kind kind : kKinds) {
      const Tensor x = random_tensor({500, 333}, 1), y = random_tensor({500, 333}, 2);
      const Norm norm = make_norm(kind, 333, true, true);
      const Tensor all = add_norm(three, x, y, norm).normed;
      EXPECT_TRUE(same_bits(all, add_norm(one, x, y, norm).normed));
      EXPECT_TRUE(same_bits(all.rows(7, 8), add_norm(three, x.rows(7, 8), y.rows(7, 8), norm).normed));
    }
  }
}

// Results of 4 MiB and more are stored past the caches, whole vectors of a row at a time.
TEST(AddNorm, LargeResultsHaveTheBitsOfSmallOnes) {
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    for (const Norm::Kind kind : {Norm::Kind::kRms, Norm::Kind::kLayer}) {
      for (const int64_t width : {2048, 2064, 2051}) {
        const Tensor x = random_tensor({520, width}, 1, 1.0f, 3.0f), y = random_tensor({520, width}, 2);
        const Norm norm = make_norm(kind, width, true, true);
        const ops::AddNorm all = add_norm(machine, x, y, norm);
        for (const int64_t n : {0, 1, 260, 519}) {
          const ops::AddNorm one = add_norm(machine, x.rows(n, n + 1), y.rows(n, n + 1), norm);
          EXPECT_TRUE(same_bits(all.sum.rows(n, n + 1), one.sum)) << width;
          EXPECT_TRUE(same_bits(all.normed.rows(n, n + 1), one.normed)) << width;
        }
      }
    }
  }
}

TEST(AddNorm, WrongShapesAreRefused) {
  Machine machine;
  const Tensor x = random_tensor({3, 8}, 1);
  EXPECT_THROW(add_norm(machine, x, random_tensor({3, 7}, 1), {}), Error);
  EXPECT_THROW(add_norm(machine, x, {}, make_norm(Norm::Kind::kRms, 9, true, false)), Error);
}

ops::NormGate sigmoid_gate(const Columns& pre) { return {ops::NormGate::Kind::kSigmoid, pre, {}, {}}; }

// A weight held around zero, w, gives what 1 + w gives, bit for bit.
TEST(Norm, AWeightOffsetIsAddedToTheWeight) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const Norm::Kind kind : kKinds) {
      const Tensor x = random_tensor({5, 37}, 1);
      Norm around_zero = make_norm(kind, 37, true, true), around_one = around_zero;
      around_zero.weight_offset = 1;
      around_one.weight = around_zero.weight.clone();
      for (int64_t j = 0; j < 37; ++j) around_one.weight.f32()[j] += 1.0f;
      EXPECT_TRUE(same_bits(add_norm(machine, x, {}, around_zero).normed, add_norm(machine, x, {}, around_one).normed));
      EXPECT_TRUE(same_bits(head_norm(machine, x, 1, around_zero, {}), head_norm(machine, x, 1, around_one, {})));
    }
  }
}

TEST(HeadNorm, SigmoidGateAgreesWithF64) {
  for (const Target& target : targets()) {
    for (const int threads : {1, 3}) {
      Machine machine(target, threads);
      for (const Norm::Kind kind : kKinds) {
        for (const int64_t dv : {1, 5, 16, 33, 128}) {
          const int64_t heads = 3, width = heads * dv, rows = 40;
          // Rows of h near 1e-4, as small gates give: eps then decides the scale.
          const Tensor h = random_tensor({rows, width}, 3, 1e-2f), o = random_tensor({rows, 2 * width}, 4, 3.0f);
          const Norm norm = make_norm(kind, width, true, dv % 2 == 1);
          const Tensor out = head_norm(machine, h, heads, norm, sigmoid_gate(columns(o, width, width)));
          for (int64_t n = 0; n < rows; ++n) {
            std::vector<double> expected;
            for (int64_t head = 0; head < heads; ++head) {
              const std::vector<double> y = normed(h.f32() + n * width + head * dv, dv, norm, head * dv);
              expected.insert(expected.end(), y.begin(), y.end());
            }
            for (int64_t j = 0; j < width; ++j) {
              expected[static_cast<size_t>(j)] /= 1 + std::exp(-double{o.f32()[n * 2 * width + width + j]});
            }
            if (dv == 1 && kind == Norm::Kind::kLayer) continue;
            EXPECT_LT(relative_error(out.f32() + n * width, expected), 3e-6) << dv;
          }
        }
      }
    }
  }
}

TEST(HeadNorm, HeadsMustDivideTheWidth) {
  Machine machine;
  const Tensor h = random_tensor({2, 10}, 1);
  EXPECT_THROW(head_norm(machine, h, 3, {}, sigmoid_gate(columns(h))), Error);
  EXPECT_THROW(head_norm(machine, h, 0, {}, sigmoid_gate(columns(h))), Error);
}

TEST(HeadNorm, SkipAndSiluGateAgreeWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t dv : {3, 16, 33}) {
      const int64_t heads = 2, width = heads * dv, rows = 20;
      const Tensor h = random_tensor({rows, width}, 3), pre = random_tensor({rows, 2 * width}, 4, 3.0f);
      const Tensor skip = random_tensor({rows, width + 1}, 5), skip_weight = random_tensor({width}, 6);
      const Norm norm = make_norm(Norm::Kind::kLayer, width, true, false);
      const ops::NormGate gate = {ops::NormGate::Kind::kSilu, columns(pre, width, width), columns(skip, 1, width),
                                  skip_weight};
      const Tensor gated = head_norm(machine, h, heads, norm, gate);
      const Tensor plain = head_norm(machine, h, heads, norm, {});
      for (int64_t n = 0; n < rows; ++n) {
        std::vector<double> expected;
        for (int64_t head = 0; head < heads; ++head) {
          const std::vector<double> y = normed(h.f32() + n * width + head * dv, dv, norm, head * dv);
          expected.insert(expected.end(), y.begin(), y.end());
        }
        EXPECT_LT(relative_error(plain.f32() + n * width, expected), 3e-6);
        for (int64_t j = 0; j < width; ++j) {
          const double z = pre.f32()[n * 2 * width + width + j];
          double& y = expected[static_cast<size_t>(j)];
          y += double{skip_weight.f32()[j]} * double{skip.f32()[n * (width + 1) + 1 + j]};
          y *= z / (1 + std::exp(-z));
        }
        EXPECT_LT(relative_error(gated.f32() + n * width, expected), 3e-6);
      }
    }
  }
}

}  // namespace
}  // namespace carousel
