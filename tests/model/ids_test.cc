// SPDX-License-Identifier: Apache-2.0
// Every door through which ids of tokens come in refuses those outside the vocabulary, in words that name the id, and
// leaves the states of sequences as they were.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"
#include "carousel/generate/batcher.h"
#include "carousel/generate/evaluate.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "carousel/ops/tokens/ids.h"
#include "carousel/verify/drift.h"

namespace carousel::model {
namespace {

const std::string kFolder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";

class EveryDoor : public ::testing::Test {
 protected:
  std::vector<int32_t> outside() const {
    const auto vocab = static_cast<int32_t>(model_.lm->vocab_size());
    return {-1, vocab, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()};
  }
  std::string limit() const { return std::to_string(model_.lm->vocab_size() - 1); }

  static void expect_refused(const std::function<void()>& door, const std::string& message) {
    try {
      door();
      ADD_FAILURE() << "let in; expected: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what() << "\n" << message;
    }
  }

  ThreadPool pool_{2};
  const Stream stream_{&Memory::host(), cpu::best_isa(), &pool_};
  Model model_ = load(kFolder, stream_);
  Runner runner_{*model_.lm, stream_};
};

TEST_F(EveryDoor, RunnerRefusesThemAndNoStateChanges) {
  for (const int32_t bad : outside()) {
    const std::string message = "ops::embedding: token 1 is id " + std::to_string(bad) + ", expected 0 to " + limit();
    State state;
    runner_.prefill(std::vector<int32_t>{1, 2}, state);
    const State before = state;
    State* const states[] = {&state};
    const int64_t lengths[] = {3};
    const std::vector<int32_t> tokens = {5, bad, 5};
    expect_refused([&] { runner_.forward(tokens, states, lengths); }, message);
    expect_refused([&] { runner_.forward(tokens, lengths); }, message);
    expect_refused([&] { runner_.prefill(tokens, state); }, message);
    EXPECT_EQ(state.pos(), 2);
    const NamedTensors now = state.tensors(model_.state_layout()), then = before.tensors(model_.state_layout());
    for (size_t i = 0; i < now.size(); ++i) EXPECT_EQ(now[i].tensor.raw(), then[i].tensor.raw()) << "still shared";
  }
}

// Lm takes ops::Ids, which nothing but the check makes; those of a larger vocabulary are told by their bound alone.
TEST_F(EveryDoor, LmTakesCheckedOnesAlone) {
  Ctx ctx = runner_.pass().ctx();
  const Seqs seqs{{0, 1}, {0}, {}, {}};
  for (const int32_t bad : outside()) {
    expect_refused([&] { ops::token_ids(ctx, {&bad, 1}, model_.lm->vocab_size()); }, "is id " + std::to_string(bad));
  }
  const int32_t beyond = static_cast<int32_t>(model_.lm->vocab_size());
  const ops::Ids of_another = ops::token_ids(ctx, {&beyond, 1}, beyond + 1);
  EXPECT_THROW(model_.lm->forward(ctx, of_another, seqs, nullptr), Error);
  const int32_t last = beyond - 1;
  EXPECT_EQ(model_.lm->forward(ctx, ops::token_ids(ctx, {&last, 1}, beyond), seqs, nullptr).dim(0), 1);
}

TEST_F(EveryDoor, GenerateRefusesPromptsAndIgnoresWhatHistoriesCount) {
  for (const int32_t bad : outside()) {
    generate::Request request;
    request.prompt = {1, bad};
    generate::Batcher batcher(model_, stream_);
    expect_refused([&] { batcher.submit(request); }, "generate: token " + std::to_string(bad) +
                                                         " of the prompt is outside the vocabulary of " +
                                                         std::to_string(model_.lm->vocab_size()));
    EXPECT_EQ(batcher.live(), 0u);

    // A history is never looked up in the table: penalties count it, and its text is decoded.
    generate::Request next;
    runner_.prefill(std::vector<int32_t>{1, 2}, next.state);
    next.history = {1, bad};
    next.prompt = {3};
    next.max_tokens = 2;
    next.sampler.repeat_penalty = 1.5f;
    int64_t tokens = 0;
    next.on_finish = [&](generate::Finished& finished) { tokens = finished.tokens; };
    generate::generate(model_, stream_, next);
    EXPECT_EQ(tokens, 2);
  }
}

TEST_F(EveryDoor, EvaluationRefusesTextsAndTargets) {
  for (const int32_t bad : outside()) {
    const std::string id = std::to_string(bad);
    for (const int64_t window : {int64_t{2}, int64_t{4096}}) {
      const std::vector<int32_t> within = {1, 2, bad, 3}, last = {1, 2, 3, bad};
      expect_refused([&] { generate::score_text(runner_, within, window); },
                     "ops::embedding: token 2 is id " + id + ", expected 0 to " + limit());
      expect_refused([&] { generate::score_text(runner_, last, window); },
                     "ops::cross_entropy: target 2 is " + id + ", expected 0 to " + limit());
    }
    const std::vector<generate::Passage> context = {{{1, bad}, {2}}}, target = {{{1, 2}, {bad}}};
    expect_refused([&] { generate::score_passages(runner_, context); }, "ops::embedding: token 1 is id " + id);
    expect_refused([&] { generate::score_passages(runner_, target); }, "ops::cross_entropy: target 0 is " + id);
  }
}

TEST_F(EveryDoor, ComparisonsRefuseThem) {
  verify::Side a(kFolder, Numerics::native(), stream_), b(kFolder, Numerics::native(), stream_);
  for (const int32_t bad : outside()) {
    const std::vector<int32_t> tokens = {1, bad};
    expect_refused(
        [&] {
          verify::measure_drift(
              a, b, tokens, 0, [] { return false; }, [](int64_t, int64_t) {});
        },
        "ops::embedding: token 1 is id " + std::to_string(bad));
  }
}

// Code that reads results brings them to the host first: it runs on meta, where what it reads is zero.
TEST_F(EveryDoor, WhatReadsResultsRunsWhereTheyLieElsewhere) {
  const Stream meta{&Memory::meta(), cpu::best_isa(), &pool_};
  Runner runner(*model_.lm, meta);
  const std::vector<int32_t> text = {1, 2, 3, 4};
  EXPECT_EQ(generate::score_text(runner, text, 2).tokens, 3);
  EXPECT_EQ(generate::score_passages(runner, std::vector<generate::Passage>{{{1, 2}, {3}}}).tokens, 1);
  generate::Request request;
  request.prompt = {1, 2};
  request.max_tokens = 3;
  request.sampler.ignore_eos = true;
  request.keep_state = true;
  request.logprobs = true;
  generate::Finished last;
  request.on_finish = [&](generate::Finished& finished) { last = std::move(finished); };
  generate::generate(model_, meta, request);
  EXPECT_EQ(last.tokens, 3);
  EXPECT_EQ(last.state.pos(), 5);
  verify::Residuals residuals;
  runner.observe(&residuals);
  runner.forward(text, std::vector<int64_t>{4});
  EXPECT_FALSE(residuals.rows().empty());
}

}  // namespace
}  // namespace carousel::model
