// SPDX-License-Identifier: Apache-2.0
// ops::short_conv against its formula in f64, and its promise: no cut, batch or thread changes a bit.
#include "carousel/ops/short_conv/short_conv.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using Conv = ops::ConvTaps;

Conv make_conv(int64_t count, int64_t width, bool bias) {
  return formed(Conv(random_tensor({width, 1, count}, 51), bias ? random_tensor({width}, 52) : Tensor()));
}

/// The same taps in `memory`.
Conv on(Memory& memory, const Conv& conv) {
  if (!memory.is_apart()) return conv;
  return formed(Conv(conv.master().to(memory), conv.bias().defined() ? conv.bias().to(memory) : Tensor()));
}

/// The ops on tensors of the host.
Tensor run(Ctx& ctx, const Tensor& bcx, const Conv& conv, Seqs seqs, LayerStates states) {
  Memory& memory = *ctx.stream.memory;
  seqs.bring_to(memory);
  return ops::short_conv(ctx, bcx.to(memory), on(memory, conv), seqs, states).to_host();
}
Tensor run_silu(Ctx& ctx, const Columns& x, const Conv& conv, Seqs seqs, LayerStates states) {
  Memory& memory = *ctx.stream.memory;
  seqs.bring_to(memory);
  return ops::silu_conv(ctx, {x.of.to(memory), x.first, x.count}, on(memory, conv), seqs, states).to_host();
}

StateLayout layout_of(const Conv& conv) {
  StateLayout layout;
  layout.add("0", {{"u", DType::kF32, {conv.taps().dim(0) - 1, conv.taps().dim(1)}}});
  return layout;
}

Tensor advance(Ctx& ctx, const Tensor& bcx, const Conv& conv, const std::vector<State*>& states,
               const std::vector<int64_t>& lengths) {
  const StateLayout layout = layout_of(conv);
  StateBatch batch;
  batch.bind(layout, states, lengths, *ctx.stream.memory);
  const Tensor out = run(ctx, bcx, conv, sequences(lengths), batch.layer(0)).clone();
  batch.advance(lengths);
  return out;
}

std::vector<double> reference(const Tensor& bcx, const Conv& conv, int64_t first, int64_t rows) {
  const int64_t count = conv.taps().dim(0), width = conv.taps().dim(1);
  std::vector<double> out;
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t j = 0; j < width; ++j) {
      double sum = conv.bias().defined() ? double{conv.bias().f32()[j]} : 0.0;
      for (int64_t k = 0; k < count; ++k) {
        const int64_t u = t - (count - 1) + k;
        if (u < 0) continue;
        const float* row = bcx.f32() + (first + u) * 3 * width + j;
        sum += double{conv.taps().f32()[k * width + j]} * row[0] * row[2 * width];
      }
      out.push_back(sum * bcx.f32()[(first + t) * 3 * width + width + j]);
    }
  }
  return out;
}

TEST(ShortConv, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t width : {1, 7, 16, 33, 256}) {
      for (const int64_t count : {1, 2, 3, 5}) {
        const Conv conv = make_conv(count, width, count != 3);
        const std::vector<int64_t> lengths = {1, 0, 2, 17, 130};
        const Seqs seqs = sequences(lengths);
        const Tensor bcx = random_tensor({seqs.rows(), 3 * width}, 1);
        const Tensor out = run(machine.ctx, bcx, conv, seqs, {});
        for (size_t s = 0; s < lengths.size(); ++s) {
          const std::vector<double> expected = reference(bcx, conv, seqs.offsets[s], lengths[s]);
          EXPECT_LT(relative_error(out.f32() + seqs.offsets[s] * width, expected), 1e-6);
        }
      }
    }
  }
}

TEST(ShortConv, CutsNeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    for (const int64_t count : {1, 2, 3, 4, 6}) {
      const Conv conv = make_conv(count, 600, true);
      const std::vector<int64_t> lengths = {90, 0, 30, 1};
      const Seqs seqs = sequences(lengths);
      const Tensor bcx = random_tensor({seqs.rows(), 1800}, 2);
      const Tensor whole = run(three.ctx, bcx, conv, seqs, {}).clone();
      std::vector<State> batched(4);
      EXPECT_TRUE(same_bits(
          whole, advance(three.ctx, bcx, conv, {&batched[0], &batched[1], &batched[2], &batched[3]}, lengths)));
      // Pieces shorter than the history, and a cut anywhere.
      for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{90}, {1, 2, 3, 4, 5, 90}, {2, 2, 7, 50, 90}}) {
        State state;
        std::vector<Tensor> parts;
        int64_t begin = 0;
        for (const int64_t cut : cuts) {
          parts.push_back(advance(one.ctx, bcx.rows(begin, cut), conv, {&state}, {cut - begin}));
          begin = cut;
        }
        EXPECT_TRUE(same_bits(joined(parts), whole.rows(0, 90)));
        EXPECT_TRUE(same_bits(state.tensors(layout_of(conv))[0].tensor, batched[0].tensors(layout_of(conv))[0].tensor));
      }
    }
  }
}

// More columns than a strip, and results of 4 MiB and more, which are stored past the caches; more rows than a GPU
// gives to a thread each.
TEST(ShortConv, LargeResultsHaveTheBitsOfSmallOnes) {
  for (const Target& target : targets()) {
    Machine machine(target, 2);
    for (const auto& [width, count] : {std::pair<int64_t, int64_t>{2112, 3}, {2083, 2}, {2083, 4}, {2083, 5}}) {
      const Conv conv = make_conv(count, width, true);
      const std::vector<int64_t> lengths = {1, 499, 40};
      const Tensor bcx = random_tensor({540, 3 * width}, 3);
      std::vector<State> states(3);
      const Tensor all = advance(machine.ctx, bcx, conv, {&states[0], &states[1], &states[2]}, lengths);
      State state;
      for (int64_t begin = 1; begin < 500; begin += 83) {
        const int64_t end = std::min<int64_t>(500, begin + 83);
        const Tensor piece = advance(machine.ctx, bcx.rows(begin, end), conv, {&state}, {end - begin});
        EXPECT_TRUE(same_bits(piece, all.rows(begin, end))) << width << " from row " << begin;
      }
      const StateLayout layout = layout_of(conv);
      EXPECT_TRUE(same_bits(state.tensors(layout)[0].tensor, states[1].tensors(layout)[0].tensor));
    }
  }
}

TEST(ShortConv, WrongShapesAreRefused) {
  Machine machine;
  const Conv conv = make_conv(3, 8, false);
  const Seqs seqs = sequences({2});
  EXPECT_THROW(ops::short_conv(machine.ctx, Tensor({2, 23}, DType::kF32), conv, seqs, {}), Error);
  EXPECT_THROW(ops::short_conv(machine.ctx, Tensor({3, 24}, DType::kF32), conv, seqs, {}), Error);
  EXPECT_THROW(Conv(Tensor({8, 1, 0}, DType::kF32), {}), Error);
  EXPECT_THROW(Conv(Tensor({8, 1, 3}, DType::kF32), Tensor({7}, DType::kF32)), Error);
  const Conv none;
  EXPECT_THROW(ops::short_conv(machine.ctx, Tensor({2, 24}, DType::kF32), none, seqs, {}), Error);
  EXPECT_EQ(ops::short_conv(machine.ctx, Tensor({0, 24}, DType::kF32), conv, sequences({}), {}).dim(0), 0);
}

Tensor advance_silu(Ctx& ctx, const Columns& x, const Conv& conv, State* state, int64_t rows) {
  StateLayout layout;
  layout.add("0", {{"u", DType::kF32, {conv.taps().dim(0), conv.taps().dim(1)}}});
  StateBatch batch;
  const std::vector<State*> states = {state};
  const std::vector<int64_t> lengths = {rows};
  batch.bind(layout, states, lengths, *ctx.stream.memory);
  const Tensor out = run_silu(ctx, x, conv, sequences(lengths), batch.layer(0)).clone();
  batch.advance(lengths);
  return out;
}

// silu of the plain convolution; the state is the last K inputs, the current one among them.
TEST(SiluConv, AgreesWithF64AndKeepsTheLastInputs) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const int64_t width : {1, 16, 37}) {
      for (const int64_t count : {1, 2, 4}) {
        const Conv conv = make_conv(count, width, count != 2);
        const Tensor x = random_tensor({30, width + 3}, 1);
        State state;
        std::vector<Tensor> parts;
        int64_t begin = 0;
        for (const int64_t cut : {1, 3, 4, 20, 30}) {
          parts.push_back(advance_silu(machine.ctx, columns(x.rows(begin, cut), 3, width), conv, &state, cut - begin));
          begin = cut;
        }
        const Tensor out = joined(parts);
        EXPECT_TRUE(same_bits(run_silu(machine.ctx, columns(x, 3, width), conv, sequences({30}), {}).clone(), out));
        std::vector<double> expected, kept;
        for (int64_t t = 0; t < 30; ++t) {
          for (int64_t j = 0; j < width; ++j) {
            double sum = conv.bias().defined() ? double{conv.bias().f32()[j]} : 0.0;
            for (int64_t k = 0; k < count; ++k) {
              const int64_t u = t - (count - 1) + k;
              if (u >= 0) sum += double{conv.taps().f32()[k * width + j]} * x.f32()[u * (width + 3) + 3 + j];
            }
            expected.push_back(sum / (1 + std::exp(-sum)));
            if (t >= 30 - count) kept.push_back(x.f32()[t * (width + 3) + 3 + j]);
          }
        }
        EXPECT_LT(relative_error(out.f32(), expected), 1e-6);
        StateLayout layout;
        layout.add("0", {{"u", DType::kF32, {count, width}}});
        EXPECT_EQ(relative_error(state.tensors(layout)[0].tensor.f32(), kept), 0);
      }
    }
  }
}

}  // namespace
}  // namespace carousel
