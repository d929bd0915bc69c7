// SPDX-License-Identifier: Apache-2.0
// Logprobs of a prompt and the hidden state of its last token are those of one plain forward, bit for bit, however the
// batcher cuts the prompt and whatever runs beside it.
#include <gtest/gtest.h>

#include <cstring>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/model/runner.h"
#include "tests/serve/small_model.h"

namespace carousel::generate {
namespace {

class PromptRows : public testing::Test {
 protected:
  struct Seen {
    std::vector<int64_t> indices;
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    std::vector<std::vector<TokenLogprob>> tops;
    std::vector<float> hidden;
    int64_t sampled = 0;
  };

  static std::vector<int32_t> text(int64_t length, uint64_t seed) {
    std::vector<int32_t> out;
    Rng rng(seed, 5);
    for (int64_t i = 0; i < length; ++i) out.push_back(static_cast<int32_t>(rng.bits() % 256));
    return out;
  }

  static Request recorded(std::vector<int32_t> prompt, Seen& seen) {
    Request request;
    request.prompt = std::move(prompt);
    request.max_tokens = 3;
    request.top_logprobs = 4;
    request.prompt_logprobs = request.keep_hidden = true;
    request.on_prompt = [&seen](const PromptToken& token) {
      EXPECT_EQ(seen.sampled, 0);
      seen.indices.push_back(token.index);
      seen.ids.push_back(token.id);
      seen.logprobs.push_back(token.logprob);
      seen.tops.emplace_back(token.top.begin(), token.top.end());
    };
    request.on_token = [&seen](const Emitted&) { return ++seen.sampled > 0; };
    request.on_finish = [&seen](Finished& finished) { seen.hidden = finished.hidden; };
    return request;
  }

  /// What one forward of the whole text gives.
  Seen plain(const std::vector<int32_t>& tokens) const {
    model::Runner runner(*small_.model.lm, small_.stream);
    const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
    const Tensor hidden = runner.forward(tokens, lengths), logits = runner.logits(hidden).to_host();
    const auto vocab = static_cast<size_t>(logits.dim(1));
    Seen seen;
    for (size_t i = 1; i < tokens.size(); ++i) {
      const std::span<const float> row(logits.f32() + (i - 1) * vocab, vocab);
      seen.indices.push_back(static_cast<int64_t>(i));
      seen.ids.push_back(tokens[i]);
      seen.logprobs.push_back(logprob_of(row, tokens[i]));
      top_logprobs(row, 4, seen.tops.emplace_back());
    }
    const Tensor last = hidden.rows(hidden.dim(0) - 1, hidden.dim(0)).to_host();
    seen.hidden.assign(last.f32(), last.f32() + last.count());
    return seen;
  }

  static void expect_same(const Seen& got, const Seen& expected) {
    EXPECT_EQ(got.indices, expected.indices);
    EXPECT_EQ(got.ids, expected.ids);
    EXPECT_EQ(got.logprobs, expected.logprobs);
    EXPECT_EQ(got.hidden, expected.hidden);
    ASSERT_EQ(got.tops.size(), expected.tops.size());
    for (size_t i = 0; i < got.tops.size(); ++i) {
      ASSERT_EQ(got.tops[i].size(), 4u);
      for (size_t k = 0; k < 4; ++k) {
        EXPECT_EQ(got.tops[i][k].id, expected.tops[i][k].id);
        EXPECT_EQ(got.tops[i][k].logprob, expected.tops[i][k].logprob);
      }
    }
  }

  serve::SmallModel small_;
};

TEST_F(PromptRows, AreThoseOfAPlainForwardWhateverTheCutsAndNeighbours) {
  for (const int64_t limit : {int64_t{1}, int64_t{128}, INT64_MAX}) {
    Batcher batcher(small_.model, small_.stream);
    batcher.limit_prompts(limit);
    const int64_t lengths[] = {1, 2, 63, 200, 700};
    std::vector<Seen> seen(std::size(lengths));
    for (size_t i = 0; i < seen.size(); ++i) batcher.submit(recorded(text(lengths[i], i), seen[i]));
    Request other;
    other.prompt = text(333, 99);
    other.max_tokens = 20;
    batcher.submit(other);
    while (batcher.live() > 0) batcher.tick();
    for (size_t i = 0; i < seen.size(); ++i) {
      SCOPED_TRACE(lengths[i]);
      // The last token run is a sampled one; the hidden state asked for is that of a prompt alone.
      Seen expected = plain(text(lengths[i], i));
      expected.hidden = seen[i].hidden;
      expect_same(seen[i], expected);
    }
  }
}

TEST_F(PromptRows, TheHiddenStateIsThatOfTheLastTokenOfThePrompt) {
  Batcher batcher(small_.model, small_.stream);
  batcher.limit_prompts(64);
  const int64_t lengths[] = {1, 64, 65, 600};
  std::vector<Seen> seen(std::size(lengths));
  for (size_t i = 0; i < seen.size(); ++i) {
    Request request = recorded(text(lengths[i], i), seen[i]);
    request.max_tokens = 0;
    batcher.submit(std::move(request));
  }
  while (batcher.live() > 0) batcher.tick();
  for (size_t i = 0; i < seen.size(); ++i) {
    SCOPED_TRACE(lengths[i]);
    expect_same(seen[i], plain(text(lengths[i], i)));
    EXPECT_EQ(seen[i].hidden.size(), 32u);
  }
}

TEST_F(PromptRows, TheFirstTokenAfterAStateHasTheLogprobOfItsLogits) {
  const std::vector<int32_t> all = text(160, 8);
  State state;
  Tensor logits;
  Request first;
  first.prompt.assign(all.begin(), all.begin() + 128);
  first.max_tokens = 0;
  first.keep_state = true;
  first.on_finish = [&](Finished& finished) {
    state = finished.state;
    logits = finished.logits;
  };
  generate(small_.model, small_.stream, std::move(first));
  Seen seen;
  Request rest = recorded({all.begin() + 128, all.end()}, seen);
  rest.max_tokens = 0;
  rest.state = state;
  rest.history.assign(all.begin(), all.begin() + 128);
  rest.logits = logits;
  generate(small_.model, small_.stream, std::move(rest));
  Seen expected = plain(all);
  EXPECT_EQ(seen.logprobs, std::vector<float>(expected.logprobs.begin() + 127, expected.logprobs.end()));
  EXPECT_EQ(seen.indices.front(), 0);
  EXPECT_EQ(seen.hidden, expected.hidden);
}

TEST_F(PromptRows, AHiddenStateNeedsAToken) {
  Batcher batcher(small_.model, small_.stream);
  Request request;
  request.keep_hidden = true;
  request.logits = Tensor(Shape{256}, DType::kF32);
  EXPECT_THROW(batcher.submit(request), Error);
}

}  // namespace
}  // namespace carousel::generate
