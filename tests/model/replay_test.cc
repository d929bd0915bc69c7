// SPDX-License-Identifier: Apache-2.0
// A step of decoding as recorded work gives the bits of the same step as a forward, whatever the number of sequences,
// and goes on where tables have moved.
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/core/rng.h"
#include "carousel/model/config.h"
#include "carousel/model/runner.h"
#include "tests/blocks/random_params.h"
#include "tests/model/block_configs.h"
#include "tests/ops/machine.h"

namespace carousel::model {
namespace {

class Replays : public testing::TestWithParam<Target> {
 protected:
  Replays() : machine(GetParam()) {
    RandomParams params(machine.stream, DType::kBF16);
    config = parse_config(parse_json(kMixed, "config.json"), "config.json");
    lm = std::make_unique<Lm>(config, params, "config.json");
  }

  Machine machine;
  ModelConfig config;
  std::unique_ptr<Lm> lm;
};

std::vector<State*> pointers(std::vector<State>& states) {
  std::vector<State*> out;
  for (State& state : states) out.push_back(&state);
  return out;
}

TEST_P(Replays, GivesTheBitsOfAForward) {
  Runner runner(*lm, machine.stream), plain(*lm, machine.stream);
  Rng rng(3);
  std::vector<State> ours(5), theirs(5);
  for (size_t s = 0; s < ours.size(); ++s) {  // at different positions; one has not begun
    std::vector<int32_t> prompt(s * 29, 1);
    runner.prefill(prompt, ours[s]);
    theirs[s] = ours[s];
  }
  const std::vector<size_t> counts = {1, 1, 1, 3, 3, 3, 5, 5, 5, 1, 3, 5, 2, 2, 2};
  for (int round = 0; round < 10; ++round) {  // positions cross 64: a page more, and tables of another size
    for (const size_t count : counts) {
      std::vector<int32_t> tokens;
      for (size_t s = 0; s < count; ++s) tokens.push_back(static_cast<int32_t>(rng.bits() % 40));
      std::vector<State*> a = pointers(ours), b = pointers(theirs);
      a.resize(count);
      b.resize(count);
      const std::vector<int64_t> lengths(count, 1);
      const Tensor got = runner.next_logits(tokens, a);
      const Tensor expected = plain.logits(plain.forward(tokens, b, lengths)).to_host();
      ASSERT_TRUE(same_bits(got, expected)) << count << " sequences, round " << round;
    }
    if (round == 4) ours[0] = ours[1], theirs[0] = theirs[1];  // a fork: storage is shared until the next step
  }
  for (size_t s = 0; s < ours.size(); ++s) {
    const NamedTensors a = ours[s].tensors(lm->state_layout()), b = theirs[s].tensors(lm->state_layout());
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i].tensor, b[i].tensor)) << a[i].name;
    EXPECT_EQ(ours[s].pos(), theirs[s].pos());
  }
}

/// So many rows and heads that a prompt of them takes tiles on tensor cores, which are laid out by positions.
TEST_P(Replays, ManySequencesCrossPagesInBf16) {
  if (!machine.memory().is_apart()) return;  // hosts record nothing
  const char* const json = R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
    "tie_word_embeddings": false})";
  Stream stream = machine.stream;
  stream.compute = Compute::kBF16;
  RandomParams params(stream, DType::kBF16);
  const Lm many(parse_config(parse_json(json, "config.json"), "config.json"), params, "config.json");
  Runner runner(many, stream), plain(many, stream);
  constexpr size_t kCount = 33;
  std::vector<State> ours(kCount), theirs(kCount);
  for (size_t s = 0; s < kCount; ++s) {
    const std::vector<int32_t> prompt(125 + s % 3, static_cast<int32_t>(s));
    runner.prefill(prompt, ours[s]);
    theirs[s] = ours[s];
  }
  const std::vector<int64_t> lengths(kCount, 1);
  std::vector<State*> a = pointers(ours), b = pointers(theirs);
  for (int32_t step = 0; step < 80; ++step) {  // two pages become four
    const std::vector<int32_t> tokens(kCount, step % 40);
    const Tensor got = runner.next_logits(tokens, a);
    ASSERT_TRUE(same_bits(got, plain.logits(plain.forward(tokens, b, lengths)).to_host())) << "step " << step;
  }
}

TEST_P(Replays, ATokenOutsideTheVocabularyChangesNoState) {
  Runner runner(*lm, machine.stream);
  State state;
  State* const states[] = {&state};
  const std::vector<int32_t> good = {1}, bad = {40};
  for (int i = 0; i < 3; ++i) runner.next_logits(good, states);
  EXPECT_THROW(runner.next_logits(bad, states), Error);
  EXPECT_EQ(state.pos(), 3);
  runner.next_logits(good, states);
  EXPECT_EQ(state.pos(), 4);
}

TEST_P(Replays, WhatACallerHoldsOfPromptsStays) {
  Runner runner(*lm, machine.stream);
  State state;
  State* const states[] = {&state};
  const std::vector<int32_t> prompt = {1, 2, 3}, next = {4};
  const Tensor last = runner.prefill(prompt, state);
  const Tensor before = last.to_host().clone();
  for (int i = 0; i < 4; ++i) runner.next_logits(next, states);
  EXPECT_TRUE(same_bits(last.to_host(), before));
}

INSTANTIATE_TEST_SUITE_P(Targets, Replays, testing::ValuesIn(targets()),
                         [](const auto& named) { return named.param.name(); });

}  // namespace
}  // namespace carousel::model
