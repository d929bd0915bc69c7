// SPDX-License-Identifier: Apache-2.0
// A norm that is recorded may wait for the product that reads it, which then forms it itself: everything that either
// leaves has the bits of the two kernels run one after the other. Only a GPU records.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "carousel/ops/linear/feed_forward.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/norm/norm.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::Norm;

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8, DType::kQ4};

Weight weight_of(const Machine& machine, int64_t M, int64_t K, DType dtype, uint64_t seed) {
  Weight weight(M, K, dtype, Weight::Layout::kPanels, machine.memory());
  const Tensor rows = random_tensor({M, K}, seed, 0.05f);
  weight.write_rows(machine.stream, 0, M, rows.f32(), DType::kF32);
  return weight;
}

Norm norm_of(const Machine& machine, Norm::Kind kind, int64_t width) {
  Norm norm;
  norm.kind = kind;
  norm.weight = machine.on(random_tensor({width}, 91));
  if (kind == Norm::Kind::kLayer) norm.bias = machine.on(random_tensor({width}, 92));
  if (kind == Norm::Kind::kRms) norm.weight_offset = 1;
  return norm;
}

/// Runs `work` at once and as a recording, and compares what both leave.
void expect_same(const Machine& machine, const std::string& what, const std::function<std::vector<Tensor>()>& work) {
  std::vector<Tensor> direct, recorded;
  for (const Tensor& tensor : work()) direct.push_back(tensor.to_host());
  std::vector<Tensor> later;
  const auto recording = machine.memory().record([&] { later = work(); });
  recording->run();
  for (const Tensor& tensor : later) recorded.push_back(tensor.to_host());
  ASSERT_EQ(direct.size(), recorded.size());
  for (size_t i = 0; i < direct.size(); ++i) EXPECT_TRUE(same_bits(direct[i], recorded[i])) << what << ", tensor " << i;
}

std::string name_of(DType dtype, int64_t width) { return std::string(dtype_name(dtype)) + " " + std::to_string(width); }

template <class F>
void on_recorders(const F& f) {
  for (const Target& target : targets()) {
    if (!target.memory->records()) continue;
    for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
      Machine machine(target);
      machine.stream.compute = compute;
      f(machine);
    }
  }
}

TEST(HeldNorm, OfAProductHasTheBitsOfTwoKernels) {
  on_recorders([](Machine& machine) {
    for (const DType dtype : kTypes) {
      for (const int64_t K : {256, 2560, 4080, 4096, 4104, 8192}) {
        if (is_block(dtype) && K % (dtype == DType::kQ8 ? 16 : 32) != 0) continue;
        const Weight few = weight_of(machine, 96, K, dtype, 5), gates = weight_of(machine, 16, K, DType::kF32, 6);
        const Weight many = weight_of(machine, K == 2560 ? 2200 : 40, K, dtype, 7);  // other kernels from some rows on
        for (const int64_t rows : {1, 3, 40}) {
          const Tensor x = machine.on(random_tensor({rows, K}, 1)), y = machine.on(random_tensor({rows, K}, 2));
          for (const Norm::Kind kind : {Norm::Kind::kRms, Norm::Kind::kLayer}) {
            const Norm norm = norm_of(machine, kind, K);
            for (const Tensor& added : {y, Tensor()}) {
              expect_same(machine, name_of(dtype, K), [&] {
                const ops::AddNorm in = ops::add_norm(machine.ctx, x, added, norm);
                return std::vector<Tensor>{in.sum, in.normed, ops::linear(machine.ctx, in.normed, {&few, &gates}),
                                           ops::linear(machine.ctx, in.normed, {&many})};
              });
            }
          }
        }
      }
    }
  });
}

TEST(HeldNorm, OfUnitsHasTheBitsOfTwoKernels) {
  on_recorders([](Machine& machine) {
    for (const DType dtype : kTypes) {
      for (const int64_t K : {1024, 4096}) {
        const Weight gate = weight_of(machine, 320, K, dtype, 5), up = weight_of(machine, 320, K, dtype, 6);
        const Weight down = weight_of(machine, K, 320, dtype, 7);
        const Tensor x = machine.on(random_tensor({1, K}, 1)), y = machine.on(random_tensor({1, K}, 2));
        const Norm norm = norm_of(machine, Norm::Kind::kRms, K);
        expect_same(machine, name_of(dtype, K), [&] {
          const ops::AddNorm in = ops::add_norm(machine.ctx, x, y, norm);
          const Tensor out = ops::feed_forward(machine.ctx, in.normed, gate, up, down, ops::Activation::kSilu);
          const ops::AddNorm next = ops::add_norm(machine.ctx, in.sum, out, norm);  // is launched when nothing follows
          return std::vector<Tensor>{in.sum, in.normed, out, next.sum, next.normed};
        });
      }
    }
  });
}

TEST(HeldNorm, OfHeadsHasTheBitsOfTwoKernels) {
  on_recorders([](Machine& machine) {
    for (const DType dtype : kTypes) {
      struct Shape {
        int64_t heads, dv;
      };
      for (const Shape shape : {Shape{8, 512}, Shape{4, 256}, Shape{2, 768}, Shape{1, 96}, Shape{4, 64}}) {
        const int64_t heads = shape.heads, width = heads * shape.dv;
        const Weight weight = weight_of(machine, 300, width, dtype, 5);
        for (const int64_t rows : {1, 40}) {
          const Tensor h = machine.on(random_tensor({rows, width}, 1));
          const Tensor pre = machine.on(random_tensor({rows, width + 64}, 2));
          for (const ops::NormGate::Kind gated :
               {ops::NormGate::Kind::kNone, ops::NormGate::Kind::kSigmoid, ops::NormGate::Kind::kSilu}) {
            for (const Norm::Kind kind : {Norm::Kind::kRms, Norm::Kind::kLayer, Norm::Kind::kNone}) {
              Norm norm = norm_of(machine, kind, width);
              if (kind == Norm::Kind::kNone) norm = Norm{kind, 0, {}, 0, {}};
              const ops::NormGate gate = {gated, columns(pre, 64, width), {}, {}};
              expect_same(machine, name_of(dtype, width), [&] {
                const Tensor out = ops::head_norm(machine.ctx, h, heads, norm, gate);
                return std::vector<Tensor>{out, ops::linear(machine.ctx, out, {&weight})};
              });
            }
          }
        }
      }
    }
  });
}

/// The arena may hand what the norm reads or writes to the product's result, or to what x is rounded to: the norm then
/// keeps its own kernel.
TEST(HeldNorm, KeepsItsKernelWhereTheProductWritesWhatItTouches) {
  on_recorders([](Machine& machine) {
    constexpr int64_t kWidth = 2048;
    const Weight weight = weight_of(machine, kWidth, kWidth, DType::kBF16, 5);
    const Weight half = weight_of(machine, kWidth / 2, kWidth, DType::kBF16, 6);
    const Norm norm = norm_of(machine, Norm::Kind::kRms, kWidth), none = {Norm::Kind::kNone, 0, {}, 0, {}};
    for (const int64_t rows : {1, 16}) {
      const Tensor x = machine.on(random_tensor({rows, kWidth}, 1)), y = machine.on(random_tensor({rows, kWidth}, 2));
      for (const Weight* const of : {&weight, &half}) {
        expect_same(machine, "freed inputs", [&] {
          Tensor freed = ops::add_norm(machine.ctx, x, y, none).sum;
          ops::AddNorm in = ops::add_norm(machine.ctx, freed, y, norm);
          freed = in.sum = Tensor();
          return std::vector<Tensor>{in.normed, ops::linear(machine.ctx, in.normed, {of})};
        });
      }
    }
  });
}

}  // namespace
}  // namespace carousel
