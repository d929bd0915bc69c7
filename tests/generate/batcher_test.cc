// SPDX-License-Identifier: Apache-2.0
// The batcher on a small mixed model with random weights that works on bytes: what a sequence says may depend on its
// own request alone.
#include "carousel/generate/batcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/params.h"

namespace carousel::generate {
namespace {

constexpr const char* kMixed =
    R"({"model_type": "carousel", "vocab_size": 256, "hidden_size": 64, "tie_word_embeddings": false,
        "layer_types": ["mlstm", "conv", "full_attention"]})";

class Batching : public testing::Test {
 protected:
  Batching() : pool_(2), stream_{&Memory::host(), cpu::best_isa(), &pool_} {
    model_.config = model::parse_config(parse_json(kMixed, "mixed"), "mixed");
    model::DrawnParams params(stream_, 3, DType::kF32);
    model_.lm = std::make_unique<model::Lm>(model_.config, params, "mixed");
    model_.tokenizer = text::Tokenizer::bytes();
    model_.fingerprint = "test";
  }

  struct Outcome {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::string text;
    StopReason reason = StopReason::kFailed;
    std::string error;
    int64_t tokens = 0;
    State state;
    std::vector<int32_t> history;
    Tensor logits;
    bool operator==(const Outcome& other) const {
      return ids == other.ids && logprobs == other.logprobs && text == other.text && reason == other.reason;
    }
  };

  static Request ask(int64_t prompt_length, uint64_t seed) {
    Request request;
    Rng rng(seed, 77);
    for (int64_t i = 0; i < prompt_length; ++i) request.prompt.push_back(static_cast<int32_t>(rng.bits() % 256));
    request.seed = seed;
    request.max_tokens = 12;
    request.logprobs = true;
    return request;
  }

  /// Outcomes by sample, kept where `outcomes` lies.
  static Request recorded(Request request, std::map<int64_t, Outcome>& outcomes) {
    auto more = request.on_token;
    request.on_token = [&outcomes, more](const Emitted& token) {
      Outcome& outcome = outcomes[token.sample];
      EXPECT_EQ(token.index, static_cast<int64_t>(outcome.ids.size()));
      outcome.ids.push_back(token.id);
      outcome.logprobs.push_back(token.logprob);
      outcome.text += token.text;
      return !more || more(token);
    };
    request.on_finish = [&outcomes](Finished& finished) {
      Outcome& outcome = outcomes[finished.sample];
      outcome.text += finished.text;
      outcome.reason = finished.reason;
      outcome.error = finished.error;
      outcome.tokens = finished.tokens;
      outcome.state = finished.state;
      outcome.history = finished.history;
      outcome.logits = finished.logits;
    };
    return request;
  }

  Outcome alone(Request request) {
    std::map<int64_t, Outcome> outcomes;
    generate(model_, stream_, recorded(std::move(request), outcomes));
    EXPECT_EQ(outcomes.size(), 1u);
    return outcomes[0];
  }

  ThreadPool pool_;
  Stream stream_;
  model::Model model_;
};

/// Prompts on both sides of the slab and chunk borders, and different parameters.
std::vector<Request> varied(Request (*ask)(int64_t, uint64_t)) {
  std::vector<Request> requests;
  const int64_t lengths[] = {1, 3, 64, 130, 511, 512, 513, 1100};
  for (size_t i = 0; i < std::size(lengths); ++i) {
    Request request = ask(lengths[i], 10 + i);
    request.max_tokens = 4 + static_cast<int64_t>(i) * 3;
    request.sampler.temp = i % 3 == 0 ? 0 : 0.5 * static_cast<double>(i);
    request.sampler.repeat_penalty = i % 2 == 0 ? 1 : 1.3;
    request.sampler.top_k = i % 4 == 1 ? 0 : 40;
    requests.push_back(std::move(request));
  }
  return requests;
}

TEST_F(Batching, ASequenceIsTheSameAloneAndWithOthers) {
  const std::vector<Request> requests = varied(ask);
  std::vector<Outcome> solo;
  for (const Request& request : requests) solo.push_back(alone(request));
  for (const bool reversed : {false, true}) {
    std::vector<std::map<int64_t, Outcome>> outcomes(requests.size());
    Batcher batcher(model_, stream_);
    for (size_t i = 0; i < requests.size(); ++i) {
      const size_t which = reversed ? requests.size() - 1 - i : i;
      batcher.submit(recorded(requests[which], outcomes[which]));
      if (i % 2 == 1) batcher.tick();  // they join at different times
    }
    while (batcher.live() > 0) batcher.tick();
    for (size_t i = 0; i < requests.size(); ++i) EXPECT_TRUE(outcomes[i][0] == solo[i]) << "request " << i;
  }
}

TEST_F(Batching, ForksEqualSeparateRunsOfThePrompt) {
  Request request = ask(600, 4);
  request.samples = 5;
  request.sampler.temp = 1.5;
  std::map<int64_t, Outcome> forks;
  int64_t prompt_rows = 0;
  Batcher batcher(model_, stream_);
  batcher.submit(recorded(request, forks));
  while (batcher.live() > 0) prompt_rows += batcher.tick().prompt;
  EXPECT_EQ(prompt_rows, 600) << "the prompt is read once";
  ASSERT_EQ(forks.size(), 5u);
  EXPECT_FALSE(forks[0].ids == forks[1].ids);
  for (int64_t k = 0; k < 5; ++k) {
    Request separate = request;
    separate.samples = 1;
    separate.stream = static_cast<uint64_t>(k);
    EXPECT_TRUE(alone(separate) == forks[k]) << "sample " << k;
  }
}

TEST_F(Batching, AStateKeptAtACutContinuesBitForBit) {
  for (const int64_t cut : {1, 5, 11}) {
    Request whole = ask(100, 8);
    whole.max_tokens = 30;
    whole.sampler.repeat_penalty = 1.2;
    whole.keep_state = true;
    const Outcome expected = alone(whole);
    Request first = whole;
    first.max_tokens = cut;
    Outcome begun = alone(first);
    EXPECT_EQ(begun.state.pos(), 100 + cut);
    ASSERT_EQ(begun.history.size(), static_cast<size_t>(100 + cut));
    Request second = whole;
    second.prompt.clear();
    second.state = begun.state;
    second.history = begun.history;
    second.logits = begun.logits;
    second.max_tokens = 30 - cut;
    const Outcome rest = alone(second);
    std::vector<int32_t> ids = begun.ids;
    ids.insert(ids.end(), rest.ids.begin(), rest.ids.end());
    EXPECT_EQ(ids, expected.ids);
    EXPECT_EQ(rest.history, expected.history);
    EXPECT_EQ(std::memcmp(rest.logits.raw(), expected.logits.raw(), expected.logits.size_bytes()), 0);
  }
}

TEST_F(Batching, StopStringsEndTheTextBeforeThem) {
  Request request = ask(20, 5);
  request.prompt.back() = 'x';  // no character is left open
  request.sampler.temp = 0;
  const Outcome whole = alone(request);
  // Two neighbouring bytes, each a token, that are ASCII: their first appearance together ends the text.
  Request printable = request;
  for (int32_t id = 0; id < 256; ++id) {
    if (id < 'a' || id > 'z') printable.sampler.logit_bias.emplace_back(id, -std::numeric_limits<double>::infinity());
  }
  const Outcome letters = alone(printable);
  ASSERT_EQ(letters.text.size(), 12u);
  const std::string stop = letters.text.substr(5, 2);
  printable.stop = {"no such text", stop};
  const Outcome stopped = alone(printable);
  EXPECT_EQ(stopped.reason, StopReason::kStopString);
  EXPECT_EQ(stopped.text, letters.text.substr(0, letters.text.find(stop)));
  printable.stop = {letters.text.substr(10) + "!"};  // begun, never completed: comes out at the end
  EXPECT_EQ(alone(printable).text, letters.text);
  EXPECT_EQ(whole.reason, StopReason::kLength);
}

TEST_F(Batching, EndTokensEndAndAreNotReported) {
  Request request = ask(20, 5);
  request.sampler.temp = 0;
  const Outcome whole = alone(request);
  model_.end_tokens = {whole.ids[3]};
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[3]) - whole.ids.begin();
  request.keep_state = true;
  const Outcome ended = alone(request);
  EXPECT_EQ(ended.reason, StopReason::kEndToken);
  EXPECT_EQ(static_cast<int64_t>(ended.ids.size()), first);
  EXPECT_EQ(ended.tokens, first + 1);
  EXPECT_EQ(ended.state.pos(), 20 + first) << "the state has seen the text and no more";
  request.sampler.ignore_eos = true;
  EXPECT_EQ(alone(request).reason, StopReason::kLength);
}

TEST_F(Batching, ACallbackCancelsItsOwnSequenceOnly) {
  Request cancelled = ask(5, 1);
  cancelled.on_token = [](const Emitted& token) { return token.index < 2; };
  const Request other = ask(700, 2);
  const Outcome solo = alone(other);
  std::map<int64_t, Outcome> a;
  std::map<int64_t, Outcome> b;
  Batcher batcher(model_, stream_);
  batcher.submit(recorded(cancelled, a));
  batcher.submit(recorded(other, b));
  while (batcher.live() > 0) batcher.tick();
  EXPECT_EQ(a[0].reason, StopReason::kCancelled);
  EXPECT_EQ(a[0].ids.size(), 3u);
  EXPECT_TRUE(b[0] == solo);
}

TEST_F(Batching, CancellingWithinAPromptKeepsWhatWasRead) {
  Request request = ask(1500, 2);
  request.keep_state = true;
  const Outcome expected = alone(request);
  std::map<int64_t, Outcome> outcomes;
  Batcher batcher(model_, stream_);
  batcher.submit(recorded(request, outcomes));
  batcher.tick();
  batcher.cancel();
  while (batcher.live() > 0) batcher.tick();
  const Outcome& half = outcomes[0];
  EXPECT_EQ(half.reason, StopReason::kCancelled);
  ASSERT_EQ(half.state.pos(), model::kPrefillRows);
  EXPECT_FALSE(half.logits.defined());
  Request rest = request;
  rest.state = half.state;
  rest.history = half.history;
  rest.prompt.erase(rest.prompt.begin(), rest.prompt.begin() + model::kPrefillRows);
  EXPECT_TRUE(alone(rest) == expected);
}

TEST_F(Batching, StoppingWithinASlabTakesItBack) {
  Request request = ask(1500, 2);
  request.keep_state = true;
  const Outcome expected = alone(request);
  std::map<int64_t, Outcome> outcomes;
  Batcher batcher(model_, stream_);
  batcher.submit(recorded(request, outcomes));
  batcher.tick();
  for (int after = 0; after < 4; ++after) {  // sublayers
    int asked = 0;
    batcher.stop_when([&] { return asked++ == after; });
    EXPECT_EQ(batcher.tick().prompt, 0);
    ASSERT_TRUE(batcher.prefix().has_value());
    EXPECT_EQ(batcher.prefix()->state.pos(), model::kPrefillRows);
  }
  batcher.stop_when({});
  while (batcher.live() > 0) batcher.tick();
  EXPECT_TRUE(outcomes[0] == expected);
}

TEST_F(Batching, CancellingWithinAPromptEndsEverySample) {
  Request request = ask(1500, 2);
  request.samples = 3;
  request.keep_state = true;
  std::map<int64_t, Outcome> outcomes;
  Batcher batcher(model_, stream_);
  batcher.cancel(batcher.submit(recorded(request, outcomes)));  // before anything was read
  ASSERT_EQ(outcomes.size(), 3u);
  outcomes.clear();
  const uint64_t number = batcher.submit(recorded(request, outcomes));
  batcher.tick();
  batcher.cancel(number);
  EXPECT_EQ(batcher.live(), 0u);
  ASSERT_EQ(outcomes.size(), 3u);
  for (const auto& [sample, outcome] : outcomes) {
    EXPECT_EQ(outcome.reason, StopReason::kCancelled);
    EXPECT_EQ(outcome.state.pos(), model::kPrefillRows);
  }
}

TEST_F(Batching, CancellingWhileDecodingBringsTheStateUpToTheText) {
  Request request = ask(10, 6);
  request.keep_state = true;
  request.max_tokens = -1;
  std::map<int64_t, Outcome> outcomes;
  generate(model_, stream_, recorded(request, outcomes), [&] { return outcomes[0].ids.size() >= 7; });
  EXPECT_EQ(outcomes[0].reason, StopReason::kCancelled);
  EXPECT_EQ(outcomes[0].ids.size(), 7u);
  EXPECT_EQ(outcomes[0].state.pos(), 17);
  EXPECT_EQ(outcomes[0].history.size(), 17u);
  EXPECT_TRUE(outcomes[0].logits.defined());
}

TEST_F(Batching, NoTokensAskedForReadsThePromptOnly) {
  Request request = ask(30, 6);
  request.max_tokens = 0;
  request.keep_state = true;
  const Outcome outcome = alone(request);
  EXPECT_EQ(outcome.reason, StopReason::kLength);
  EXPECT_EQ(outcome.state.pos(), 30);
  EXPECT_TRUE(outcome.ids.empty() && outcome.logits.defined());
}

TEST_F(Batching, TextIsWholeCharacters) {
  Request request = ask(4, 9);
  request.max_tokens = 200;
  request.sampler.temp = 3;
  bool whole = true;
  request.on_token = [&](const Emitted& token) {
    if (!token.text.empty()) whole = whole && (static_cast<unsigned char>(token.text[0]) & 0xC0) != 0x80;
    return true;
  };
  const Outcome outcome = alone(request);
  EXPECT_TRUE(whole);
  std::vector<int32_t> all = request.prompt;
  const std::string before = model_.text().decode(all);
  all.insert(all.end(), outcome.ids.begin(), outcome.ids.end());
  EXPECT_TRUE(model_.text().decode(all).ends_with(outcome.text));
}

TEST_F(Batching, AFailedSequenceLeavesTheOthersAlone) {
  Request failing = ask(5, 1);
  for (int32_t id = 0; id < 256; ++id) {
    failing.sampler.logit_bias.emplace_back(id, -std::numeric_limits<double>::infinity());
  }
  std::map<int64_t, Outcome> a;
  std::map<int64_t, Outcome> b;
  Batcher batcher(model_, stream_);
  batcher.submit(recorded(failing, a));
  batcher.submit(recorded(ask(9, 2), b));
  while (batcher.live() > 0) batcher.tick();
  EXPECT_EQ(a[0].reason, StopReason::kFailed);
  EXPECT_NE(a[0].error.find("no token is left"), std::string::npos);
  EXPECT_TRUE(b[0] == alone(ask(9, 2)));
}

TEST_F(Batching, IdsWithoutATokenAreNeverSampled) {
  model_.config.vocab_size = 1000;  // padded: the tokenizer knows 256
  model::DrawnParams params(stream_, 3, DType::kF32);
  model_.lm = std::make_unique<model::Lm>(model_.config, params, "padded");
  Request request = ask(3, 1);
  request.sampler.temp = 50;
  request.sampler.top_k = 0;
  request.sampler.min_p = 0;
  request.max_tokens = 50;
  for (const int32_t id : alone(request).ids) EXPECT_LT(id, 256);
  model_.tokenizer.reset();  // nothing is known of the ids: all may come, and there is no text
  const Outcome free = alone(request);
  EXPECT_GT(*std::max_element(free.ids.begin(), free.ids.end()), 255);
  EXPECT_EQ(free.text, "");
}

TEST_F(Batching, BadRequestsAreRefused) {
  Batcher batcher(model_, stream_);
  const auto refused = [&](auto change) {
    Request request = ask(3, 1);
    change(request);
    EXPECT_THROW(batcher.submit(std::move(request)), Error);
  };
  refused([](Request& r) { r.prompt.clear(); });
  refused([](Request& r) { r.prompt[1] = 256; });
  refused([](Request& r) { r.prompt[1] = -1; });
  refused([](Request& r) { r.samples = 0; });
  refused([](Request& r) { r.max_tokens = -2; });
  refused([](Request& r) { r.history = {1}; });
  refused([](Request& r) { r.sampler.top_p = 2; });
  refused([](Request& r) {
    r.prompt.clear();
    r.logits = Tensor(Shape{255}, DType::kF32);
  });
  EXPECT_EQ(batcher.live(), 0u);
  EXPECT_EQ(batcher.tick().sampled, 0);
}

}  // namespace
}  // namespace carousel::generate
