// SPDX-License-Identifier: Apache-2.0
// ops::attention against a plain softmax in f64, and its promise: however a sequence is cut, batched or threaded, and
// whether its pages are its own or were shared, a row has the same bits.
#include "carousel/ops/attention/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/cuda/gpu.h"
#include "tests/ops/attention/attention_reference.h"
#include "tests/ops/machine.h"
#include "tests/targets.h"

namespace carousel {
namespace {

using ops::AttentionDims;

AttentionDims make_dims(int64_t heads, int64_t kv_heads, int64_t d, bool norm = true, bool rotate = true) {
  return attention_dims(heads, kv_heads, d, norm, rotate);
}

StateLayout layout_of(const AttentionDims& dims) { return attention_layout(dims); }

Tensor random_qkv(int64_t rows, const AttentionDims& dims, uint64_t seed) {
  return random_tensor({rows, (dims.heads + 2 * dims.kv_heads) * dims.head_dim}, seed, 1.5f);
}

/// The op on tensors of the host.
Tensor run(Ctx& ctx, const Tensor& qkv, AttentionDims dims, Seqs seqs, LayerStates states) {
  Memory& memory = *ctx.stream.memory;
  for (Tensor* const tensor : {&dims.q_norm, &dims.k_norm, &dims.inv_freq}) {
    if (tensor->defined()) *tensor = tensor->to(memory);
  }
  seqs.bring_to(memory);
  return ops::attention(ctx, qkv.to(memory), dims, seqs, states).to_host();
}

Tensor advance(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, const std::vector<State*>& states,
               const std::vector<int64_t>& lengths) {
  const StateLayout layout = layout_of(dims);
  Seqs seqs = sequences(lengths);
  for (size_t s = 0; s < states.size(); ++s) seqs.pos[s] = states[s]->pos();
  StateBatch batch;
  batch.bind(layout, states, lengths, *ctx.stream.memory);
  const Tensor out = run(ctx, qkv, dims, seqs, batch.layer(0)).clone();
  batch.advance(lengths);
  return out;
}

Tensor in_pieces(Ctx& ctx, const Tensor& qkv, const AttentionDims& dims, State* state,
                 const std::vector<int64_t>& cuts) {
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t cut : cuts) {
    parts.push_back(advance(ctx, qkv.rows(begin, cut), dims, {state}, {cut - begin}));
    begin = cut;
  }
  return joined(parts);
}

/// [T - from, H*d] of times from .. T of the sequence in rows first .. first + T.
std::vector<double> reference(const Tensor& qkv, const AttentionDims& dims, int64_t first, int64_t rows,
                              int64_t from = 0) {
  const auto values = [](const Tensor& tensor) {
    return tensor.defined() ? std::vector<double>(tensor.f32(), tensor.f32() + tensor.count()) : std::vector<double>();
  };
  return attention_reference({values(qkv.rows(first, first + rows)), values(dims.q_norm), values(dims.k_norm)}, dims,
                             from);
}

std::vector<AttentionDims> shapes() {
  return {make_dims(4, 2, 32),
          make_dims(1, 1, 2),
          make_dims(8, 2, 64, false),
          make_dims(6, 1, 24),
          make_dims(3, 3, 7, true, false),
          make_dims(2, 1, 256),
          make_dims(2, 2, 80, false, false),
          partly_rotated(make_dims(4, 1, 32), 8),
          partly_rotated(make_dims(2, 2, 10, false), 1),
          windowed(make_dims(4, 2, 16), 1),
          windowed(make_dims(4, 2, 16), 7),
          windowed(make_dims(6, 2, 24, false), 64),
          windowed(partly_rotated(make_dims(4, 4, 32), 4), 65),
          windowed(make_dims(2, 1, 16), 100),
          windowed(make_dims(2, 1, 16), 1000),
          make_dims(4, 1, 64),
          make_dims(6, 2, 128, false),
          windowed(make_dims(4, 2, 128), 70),
          windowed(partly_rotated(make_dims(2, 2, 64), 16), 9)};
}

/// Sequences of these lengths in one batch, each within `bound` of f64.
void expect_f64(Machine& machine, const AttentionDims& dims, const std::vector<int64_t>& lengths, double bound) {
  const Seqs seqs = sequences(lengths);
  const Tensor qkv = random_qkv(seqs.rows(), dims, 11);
  const Tensor out = run(machine.ctx, qkv, dims, seqs, {});
  for (size_t s = 0; s < lengths.size(); ++s) {
    const std::vector<double> expected = reference(qkv, dims, seqs.offsets[s], lengths[s]);
    EXPECT_LT(relative_error(out.f32() + seqs.offsets[s] * out.dim(1), expected), bound)
        << "T " << lengths[s] << " d " << dims.head_dim;
  }
}

TEST(Attention, AgreesWithF64) {
  for (const Target& target : targets()) {
    Machine machine(target);
    SCOPED_TRACE(target);
    for (const AttentionDims& dims : shapes()) {
      // Scores reach 20: their rounding, 20 * 2^-24 times a few terms, is the error of the weights.
      expect_f64(machine, dims, {1, 2, 0, 17, 63, 64, 65, 130}, 5e-6);
      expect_f64(machine, dims, {2, 0}, 5e-6);  // as many rows as sequences, but not one each
    }
  }
}

// With bf16 products a GPU takes many rows in tiles: queries, keys, values and weights are rounded to 2^-9, so an
// output is off by some 2^-8 of its size. Cuts change no bit among tiles.
void expect_tiles(const Target& target, uint32_t plain) {
  Machine machine(target);
  machine.stream.compute = Compute::kBF16;
  static_cast<cuda::Gpu&>(machine.memory()).run_plain(plain);
  for (const AttentionDims& dims :
       {make_dims(8, 2, 64), make_dims(4, 4, 128, false), windowed(make_dims(8, 2, 64, true, false), 70),
        partly_rotated(make_dims(8, 1, 128), 32), windowed(make_dims(8, 8, 64), 1),
        windowed(make_dims(4, 2, 128), 130)}) {
    SCOPED_TRACE(::testing::Message() << "d " << dims.head_dim << " window " << dims.window << " plain " << plain);
    expect_f64(machine, dims, {1, 0, 130, 64, 300, 65, 2}, 8e-3);
    const Tensor long_qkv = random_qkv(1000, dims, 22);
    State whole, cut;
    const Tensor at_once = in_pieces(machine.ctx, long_qkv, dims, &whole, {1000});
    EXPECT_TRUE(same_bits(in_pieces(machine.ctx, long_qkv, dims, &cut, {300, 557, 1000}), at_once));
    EXPECT_LT(relative_error(at_once.f32(), reference(long_qkv, dims, 0, 1000)), 8e-3);
  }
  static_cast<cuda::Gpu&>(machine.memory()).run_plain(0);
}

TEST(Attention, TilesAgreeWithF64AndAnyCut) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;  // computes in f32 whatever the products do
    expect_tiles(target, 0);
    expect_tiles(target, static_cast<uint32_t>(cuda::Fast::kAttention));
  }
}

TEST(Attention, DecodeEqualsPrefillBitForBit) {
  for (const Target& target : targets()) {
    Machine machine(target);
    for (const AttentionDims& dims : shapes()) {
      const Tensor qkv = random_qkv(200, dims, 12);
      const Tensor stateless = run(machine.ctx, qkv, dims, sequences({200}), {}).clone();
      std::vector<int64_t> every_row;
      for (int64_t t = 1; t <= 200; ++t) every_row.push_back(t);
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{200}, every_row, {1, 8, 9, 64, 65, 65, 127, 150, 200}, {100, 200}}) {
        State state;
        EXPECT_TRUE(same_bits(in_pieces(machine.ctx, qkv, dims, &state, cuts), stateless))
            << target << " d " << dims.head_dim << " cuts " << cuts.size();
      }
    }
  }
}

TEST(Attention, NeighboursAndThreadsChangeNoBit) {
  for (const Target& target : targets()) {
    Machine one(target, 1), three(target, 3);
    const AttentionDims dims = make_dims(4, 2, 48);
    const std::vector<int64_t> lengths = {1, 100, 0, 64, 3, 1};
    const Seqs seqs = sequences(lengths);
    const Tensor qkv = random_qkv(seqs.rows(), dims, 13);
    std::vector<State> states(lengths.size());
    std::vector<State*> pointers;
    for (State& state : states) pointers.push_back(&state);
    const Tensor batched = advance(three.ctx, qkv, dims, pointers, lengths);
    for (size_t s = 0; s < lengths.size(); ++s) {
      const Tensor own = qkv.rows(seqs.offsets[s], seqs.offsets[s + 1]);
      for (Machine* machine : {&one, &three}) {
        State alone;
        EXPECT_TRUE(same_bits(advance(machine->ctx, own, dims, {&alone}, {lengths[s]}),
                              batched.rows(seqs.offsets[s], seqs.offsets[s + 1])));
      }
    }
  }
}

// Keys of several spans. On more threads than there are blocks of rows these share the spans of one.
std::vector<AttentionDims> few_heads() {
  return {make_dims(3, 1, 16),
          make_dims(2, 2, 10, false),
          windowed(make_dims(2, 1, 16), 1500),
          windowed(make_dims(2, 1, 16, false), 30),
          make_dims(4, 1, 64),
          windowed(make_dims(3, 1, 128), 1500),
          make_dims(8, 1, 64, false)};
}

TEST(AttentionSpans, AgreeWithF64) {
  constexpr int64_t kRows = 2 * ops::kAttentionSpan + 300, kLast = 4;
  for (const Target& target : targets()) {
    Machine one(target, 1), four(target, 4);
    for (const AttentionDims& dims : few_heads()) {
      const Tensor qkv = random_qkv(kRows, dims, 21);
      const std::vector<double> expected = reference(qkv, dims, 0, kRows, kRows - kLast);
      for (Machine* machine : {&one, &four}) {
        State state;
        in_pieces(machine->ctx, qkv, dims, &state, {kRows - kLast});
        const Tensor out = advance(machine->ctx, qkv.rows(kRows - kLast, kRows), dims, {&state}, {kLast});
        EXPECT_LT(relative_error(out.f32(), expected), 5e-6) << target << " window " << dims.window;
      }
    }
  }
}

TEST(AttentionSpans, CutsThreadsAndNeighboursChangeNoBit) {
  constexpr int64_t kSpan = ops::kAttentionSpan, kRows = 2 * kSpan + 40;
  std::vector<int64_t> cuts = {1, 700, kSpan - 1, kSpan, kSpan + 1, kSpan + 64, 2 * kSpan - 3};
  for (int64_t t = 2 * kSpan; t <= kRows; ++t) cuts.push_back(t);
  for (const Target& target : targets()) {
    Machine one(target, 1), two(target, 2), four(target, 4);
    for (const AttentionDims& dims : few_heads()) {
      const Tensor qkv = random_qkv(kRows, dims, 22), short_qkv = random_qkv(1, dims, 23);
      const Tensor whole = run(one.ctx, qkv, dims, sequences({kRows}), {}).clone();
      State last;
      for (Machine* machine : {&one, &two, &four}) {
        State state;
        EXPECT_TRUE(same_bits(in_pieces(machine->ctx, qkv, dims, &state, cuts), whole))
            << target << " window " << dims.window;
        last = state;
      }
      State alone = last, beside = last, other;
      const Tensor decoded = advance(four.ctx, qkv.rows(0, 1), dims, {&alone}, {1});
      const Tensor both = advance(four.ctx, joined({short_qkv, qkv.rows(0, 1)}), dims, {&other, &beside}, {1, 1});
      EXPECT_TRUE(same_bits(both.rows(1, 2), decoded));
    }
  }
}

TEST(AttentionSpans, WhatIsNotFiniteInOneReachesTheRow) {
  constexpr int64_t kRows = 2 * ops::kAttentionSpan + 1;
  Machine one(cpu::best_isa(), 1), four(cpu::best_isa(), 4);
  const AttentionDims dims = make_dims(1, 1, 8);
  for (const int64_t column : {8, 16}) {  // of a key, of a value
    const Tensor qkv = random_qkv(kRows, dims, 24);
    qkv.f32()[5 * 24 + column] = NAN;
    for (Machine* machine : {&one, &four}) {
      State state;
      in_pieces(machine->ctx, qkv, dims, &state, {kRows - 1});
      EXPECT_TRUE(std::isnan(advance(machine->ctx, qkv.rows(kRows - 1, kRows), dims, {&state}, {1}).f32()[0]));
    }
  }
}

TEST(Attention, ForksShareFullPagesAndCopyTheLastOne) {
  Machine machine;
  const AttentionDims dims = make_dims(4, 2, 32);
  const Tensor qkv = random_qkv(160, dims, 14), other = random_qkv(20, dims, 15);
  State parent;
  in_pieces(machine.ctx, qkv, dims, &parent, {140});
  State fork = parent, kept = parent;
  const NamedTensors before = kept.tensors(layout_of(dims));
  const Tensor diverged = advance(machine.ctx, other, dims, {&fork}, {20});
  const NamedTensors after = parent.tensors(layout_of(dims));
  for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(before[i].tensor, after[i].tensor));
  const Tensor continued = advance(machine.ctx, qkv.rows(140, 160), dims, {&parent}, {20});
  State cold;
  const Tensor whole = in_pieces(machine.ctx, qkv, dims, &cold, {160});
  EXPECT_TRUE(same_bits(continued, whole.rows(140, 160)));
  EXPECT_FALSE(same_bits(continued, diverged));
}

TEST(Attention, PagesBeforeTheWindowAreNotRead) {
  Machine machine;
  const AttentionDims dims = windowed(make_dims(4, 2, 16), 20);
  const StateLayout layout = layout_of(dims);
  const Tensor qkv = random_qkv(160, dims, 18);
  State state;
  in_pieces(machine.ctx, qkv, dims, &state, {150});
  NamedTensors kept = state.tensors(layout);
  for (const NamedTensor& named : kept) {
    float* first_page = named.tensor.f32();
    std::fill(first_page, first_page + layout.page_bytes() / 8, 1e30f);  // half a page's bytes are keys, half values
  }
  const Tensor whole = run(machine.ctx, qkv, dims, sequences({160}), {});
  State spoiled = State::from(kept, state.pos(), layout);
  EXPECT_TRUE(same_bits(advance(machine.ctx, qkv.rows(150, 160), dims, {&spoiled}, {10}), whole.rows(150, 160)));
}

TEST(Attention, AWindowOfTheWholeSequenceChangesNoBit) {
  Machine machine;
  const AttentionDims dims = make_dims(4, 2, 16);
  const Tensor qkv = random_qkv(150, dims, 19);
  EXPECT_TRUE(same_bits(run(machine.ctx, qkv, dims, sequences({150}), {}).clone(),
                        run(machine.ctx, qkv, windowed(dims, 150), sequences({150}), {})));
}

TEST(Attention, UnwrittenRowsOfAPageStayZero) {
  Machine machine;
  const AttentionDims dims = make_dims(2, 1, 4);
  State state;
  in_pieces(machine.ctx, random_qkv(3, dims, 16), dims, &state, {3});
  const NamedTensors kept = state.tensors(layout_of(dims));
  for (int64_t d = 0; d < 4; ++d) {
    for (int64_t t = 3; t < kPageRows; ++t) {
      EXPECT_EQ(kept[0].tensor.f32()[d * kPageRows + t], 0.0f);
      EXPECT_EQ(kept[1].tensor.f32()[t * 4 + d], 0.0f);
    }
  }
}

TEST(Attention, LargeScoresStayFinite) {
  Machine machine;
  const AttentionDims dims = make_dims(2, 1, 16, false);
  const Tensor qkv = random_tensor({130, 64}, 17, 300.0f);  // scores near 1e5: all but one weight vanish
  const Tensor out = run(machine.ctx, qkv, dims, sequences({130}), {});
  for (int64_t j = 0; j < out.count(); ++j) ASSERT_TRUE(std::isfinite(out.f32()[j]));
}

TEST(Attention, WrongArgumentsAreRefused) {
  Machine machine;
  const Tensor qkv({2, 64}, DType::kF32);
  const Seqs seqs = sequences({2});
  EXPECT_EQ(ops::attention(machine.ctx, Tensor({0, 64}, DType::kF32), make_dims(2, 1, 16), sequences({}), {}).dim(0),
            0);
  EXPECT_THROW(ops::attention(machine.ctx, qkv, make_dims(3, 2, 16), seqs, {}), Error);
  EXPECT_THROW(ops::attention(machine.ctx, qkv, make_dims(2, 1, 17), seqs, {}), Error);
  EXPECT_THROW(ops::attention(machine.ctx, qkv, make_dims(2, 0, 16), seqs, {}), Error);
  AttentionDims odd = make_dims(2, 1, 16);
  odd.k_norm = Tensor();
  EXPECT_THROW(ops::attention(machine.ctx, qkv, odd, seqs, {}), Error);
  Seqs later = seqs;
  later.pos[0] = 5;
  EXPECT_THROW(ops::attention(machine.ctx, qkv, make_dims(2, 1, 16), later, {}), Error);
}

TEST(Attention, MorePairsThanAHeadHasCannotRotate) {
  Machine machine;
  AttentionDims dims = make_dims(1, 1, 7, false, false);
  dims.inv_freq = Tensor({4}, DType::kF32);
  EXPECT_THROW(ops::attention(machine.ctx, Tensor({2, 21}, DType::kF32), dims, sequences({2}), {}), Error);
}

}  // namespace
}  // namespace carousel
