// SPDX-License-Identifier: Apache-2.0
// A state is a value: copies share until written, and what is written shows in one of them only.
#include "carousel/core/state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "carousel/core/error.h"

namespace carousel {
namespace {

constexpr int64_t kDim = 3;

// Two fixed tensors of one layer, one fixed and one paged of the next.
StateLayout make_layout() {
  StateLayout layout;
  EXPECT_EQ(layout.add("0", {{"C", DType::kF32, {2, 5}}, {"n", DType::kF32, {5}}}), 0u);
  EXPECT_EQ(layout.add("1", {{"k", DType::kF32, {kPageRows, kDim}, true}, {"c", DType::kF32, {4}}}), 2u);
  return layout;
}

// A stand-in for a model: every row adds its token to all fixed values, and appends itself to the pages.
void run(const StateLayout& layout, std::span<State* const> states, std::span<const int64_t> lengths, float token) {
  StateBatch batch;
  batch.bind(layout, states, lengths);
  for (size_t s = 0; s < states.size(); ++s) {
    const auto sequence = static_cast<int64_t>(s);
    for (int64_t t = 0; t < lengths[s]; ++t) {
      for (int i = 0; i < 10; ++i) batch.layer(0).fixed(0)[sequence][i] += token;
      for (int i = 0; i < 5; ++i) batch.layer(0).fixed(1)[sequence][i] -= token;
      for (int i = 0; i < 4; ++i) batch.layer(2).fixed(1)[sequence][i] += 2 * token;
      const int64_t row = states[s]->pos() + t;
      float* page = batch.layer(2).pages(0)[sequence][static_cast<size_t>(row / kPageRows)];
      for (int64_t i = 0; i < kDim; ++i) page[row % kPageRows * kDim + i] = token;
    }
  }
  batch.advance(lengths);
}

void run_one(const StateLayout& layout, State& state, int64_t length, float token) {
  State* const states[] = {&state};
  const int64_t lengths[] = {length};
  run(layout, states, lengths, token);
}

bool same(const StateLayout& layout, const State& a, const State& b) {
  const NamedTensors left = a.tensors(layout);
  const NamedTensors right = b.tensors(layout);
  for (size_t i = 0; i < left.size(); ++i) {
    if (!(left[i].tensor.shape() == right[i].tensor.shape())) return false;
    for (int64_t j = 0; j < left[i].tensor.count(); ++j) {
      if (left[i].tensor.f32()[j] != right[i].tensor.f32()[j]) return false;
    }
  }
  return a.pos() == b.pos();
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kState);
    return error.what();
  }
  return "no error";
}

TEST(StateLayout, CountsBytes) {
  const StateLayout layout = make_layout();
  ASSERT_EQ(layout.entries().size(), 4u);
  EXPECT_EQ(layout.entries()[2].name, "1.k");
  EXPECT_EQ(layout.fixed_bytes(), 64u + 64 + 64);  // each tensor at a cache line of its own
  EXPECT_EQ(layout.page_bytes(), static_cast<size_t>(kPageRows * kDim) * sizeof(float));
  EXPECT_EQ(layout.bytes_at(0), layout.fixed_bytes());
  EXPECT_EQ(layout.bytes_at(1), layout.fixed_bytes() + layout.page_bytes());
  EXPECT_EQ(layout.bytes_at(kPageRows), layout.bytes_at(1));
  EXPECT_EQ(layout.bytes_at(kPageRows + 1), layout.fixed_bytes() + 2 * layout.page_bytes());
}

TEST(State, DefaultIsAValidStart) {
  const StateLayout layout = make_layout();
  State state;
  EXPECT_TRUE(state.empty());
  EXPECT_EQ(state.bytes(), 0u);
  for (const NamedTensor& named : state.tensors(layout)) {
    for (int64_t i = 0; i < named.tensor.count(); ++i) EXPECT_EQ(named.tensor.f32()[i], 0);
  }
  run_one(layout, state, 3, 1);
  EXPECT_EQ(state.pos(), 3);
  EXPECT_EQ(state.bytes(), layout.bytes_at(3));
  EXPECT_EQ(state.tensors(layout)[0].tensor.f32()[9], 3);
}

TEST(State, AForkIsUnchangedByItsParentAndTheReverse) {
  const StateLayout layout = make_layout();
  for (const int64_t prefix : {int64_t{1}, kPageRows - 1, kPageRows, kPageRows + 1, 3 * kPageRows}) {
    State parent, cold;
    run_one(layout, parent, prefix, 1);
    run_one(layout, cold, prefix, 1);
    State fork = parent;
    run_one(layout, fork, 2, 5);
    EXPECT_TRUE(same(layout, parent, cold)) << prefix;
    run_one(layout, cold, 2, 5);
    EXPECT_TRUE(same(layout, fork, cold)) << prefix;
    run_one(layout, parent, 70, 9);
    EXPECT_TRUE(same(layout, fork, cold)) << prefix;
  }
}

TEST(State, ForksShareFullPagesAndOwnTheOneTheyWrite) {
  const StateLayout layout = make_layout();
  State parent;
  run_one(layout, parent, kPageRows + 5, 1);
  State fork = parent;
  run_one(layout, fork, 1, 2);
  State* const states[] = {&parent, &fork};
  const int64_t none[] = {0, 0};
  StateBatch batch;
  batch.bind(layout, states, none);
  ASSERT_EQ(parent.tensors(layout)[2].tensor.dim(0), 2);
  float* const* const a = batch.layer(2).pages(0)[0];
  float* const* const b = batch.layer(2).pages(0)[1];
  EXPECT_EQ(a[0], b[0]) << "the full page is shared";
  EXPECT_NE(a[1], b[1]) << "the written page is not";
  EXPECT_NE(batch.layer(0).fixed(0)[0], batch.layer(0).fixed(0)[1]);
}

TEST(State, TheSameStateOnAnotherDeviceHasItsBytes) {
  const StateLayout layout = make_layout();
  State state;
  run_one(layout, state, kPageRows + 5, 1);
  EXPECT_TRUE(same(layout, state, state.to(Memory::host())));
  const State meta = state.to(Memory::meta());
  EXPECT_EQ(meta.pos(), state.pos());
  EXPECT_EQ(meta.bytes(), state.bytes());
  State copy = meta;  // bound on meta it asks for what the host would, and has no memory
  State* const states[] = {&copy};
  const int64_t one[] = {1};
  StateBatch batch;
  batch.bind(layout, states, one, Memory::meta());
  EXPECT_EQ(batch.layer(0).fixed(0)[0], nullptr);
  EXPECT_EQ(batch.layer(2).pages(0)[0][1], nullptr);
}

TEST(State, AZeroLengthPieceSharesEverythingStill) {
  const StateLayout layout = make_layout();
  State parent;
  run_one(layout, parent, 5, 1);
  State fork = parent;
  run_one(layout, fork, 0, 3);
  EXPECT_TRUE(same(layout, parent, fork));
  State* const states[] = {&parent, &fork};
  const int64_t none[] = {0, 0};
  StateBatch batch;
  batch.bind(layout, states, none);
  EXPECT_EQ(batch.layer(0).fixed(0)[0], batch.layer(0).fixed(0)[1]);
}

TEST(State, SequencesOfABatchDoNotTouchEachOther) {
  const StateLayout layout = make_layout();
  State a, b, c;
  State* const states[] = {&a, &b, &c};
  const int64_t lengths[] = {2, 0, 70};
  run(layout, states, lengths, 1);
  run(layout, states, lengths, 1);
  State alone;
  run_one(layout, alone, 140, 1);
  EXPECT_TRUE(same(layout, c, alone));
  EXPECT_EQ(a.pos(), 4);
  EXPECT_EQ(b.pos(), 0);
  EXPECT_EQ(b.tensors(layout)[0].tensor.f32()[0], 0);
}

TEST(State, ASteadyStepMovesNothing) {
  const StateLayout layout = make_layout();
  State state;
  run_one(layout, state, 1, 1);
  State* const states[] = {&state};
  const int64_t lengths[] = {1};
  StateBatch batch;
  batch.bind(layout, states, lengths);
  const float* fixed = batch.layer(0).fixed(0)[0];
  const float* page = batch.layer(2).pages(0)[0][0];
  for (int step = 0; step < 20; ++step) {
    batch.bind(layout, states, lengths);
    EXPECT_EQ(batch.layer(0).fixed(0)[0], fixed);
    EXPECT_EQ(batch.layer(2).pages(0)[0][0], page);
    batch.advance(lengths);
    batch.unbind();
    EXPECT_FALSE(batch.bound());
  }
}

TEST(State, TensorsRoundTrip) {
  const StateLayout layout = make_layout();
  State state;
  run_one(layout, state, kPageRows + 7, 1.25f);
  State back = State::from(state.tensors(layout), state.pos(), layout);
  EXPECT_TRUE(same(layout, state, back));
  run_one(layout, back, 100, 2);
  run_one(layout, state, 100, 2);
  EXPECT_TRUE(same(layout, state, back));
  EXPECT_TRUE(same(layout, State::from(State().tensors(layout), 0, layout), State()));
}

TEST(State, WhatDoesNotFitIsRefusedByName) {
  const StateLayout layout = make_layout();
  State state;
  run_one(layout, state, 5, 1);
  const auto refusal = [&](const std::function<void(NamedTensors&)>& change, int64_t pos = 5) {
    NamedTensors tensors = state.tensors(layout);
    change(tensors);
    return message_of([&] { State::from(tensors, pos, layout); });
  };
  EXPECT_EQ(refusal([](NamedTensors&) {}), "no error");
  EXPECT_EQ(refusal([](NamedTensors& t) { t.erase(t.begin() + 1); }), "state: tensor \"0.n\" is missing");
  EXPECT_EQ(refusal([](NamedTensors& t) {
              t.push_back({"2.C", Tensor({1}, DType::kF32)});
            }),
            "state: tensor \"2.C\" belongs to no block of this model");
  EXPECT_EQ(refusal([](NamedTensors& t) { t.push_back(t[1]); }), "state: tensor \"0.n\" appears twice");
  EXPECT_EQ(refusal([](NamedTensors& t) {
              t[0].tensor = Tensor({5, 2}, DType::kF32);
            }),
            "state: \"0.C\" is F32 [5, 2], expected F32 [2, 5] at position 5");
  EXPECT_EQ(refusal([](NamedTensors& t) {
              t[0].tensor = Tensor({2, 5}, DType::kBF16);
            }),
            "state: \"0.C\" is BF16 [2, 5], expected F32 [2, 5] at position 5");
  EXPECT_EQ(refusal([](NamedTensors&) {}, kPageRows + 1),
            "state: \"1.k\" is F32 [1, 64, 3], expected F32 [2, 64, 3] at position 65");
  EXPECT_EQ(refusal([](NamedTensors&) {}, -1), "state: position is -1, expected 0 or more");
  EXPECT_NE(refusal([](NamedTensors&) {}, std::numeric_limits<int64_t>::max()), "no error");
  for (const float value : {std::nanf(""), INFINITY}) {
    EXPECT_EQ(refusal([&](NamedTensors& t) {
                t[1].tensor = t[1].tensor.clone();
                t[1].tensor.f32()[2] = value;
              }),
              "state: \"0.n\" holds a value that is not finite at element 2");
  }
}

}  // namespace
}  // namespace carousel
