// SPDX-License-Identifier: Apache-2.0
// `echo` with `logprobs`: the likelihood of a prompt is that of a plain forward, whatever the cache has read before.
#include "carousel/generate/sampler.h"
#include "carousel/model/runner.h"
#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

class PromptLogprobs : public ServiceTest {
 protected:
  /// log p of each token after the ones before it; none for the first.
  std::vector<float> plain(const std::string& prompt) const {
    const std::vector<int32_t> tokens = small_.model.text().encode(prompt);
    model::Runner runner(*small_.model.lm, small_.stream);
    const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
    const Tensor logits = runner.logits(runner.forward(tokens, lengths)).to_host();
    std::vector<float> out;
    for (size_t i = 1; i < tokens.size(); ++i) {
      const size_t vocab = static_cast<size_t>(logits.dim(1));
      out.push_back(generate::logprob_of(std::span(logits.f32() + (i - 1) * vocab, vocab), tokens[i]));
    }
    return out;
  }
  static void expect_begins(const Json& logprobs, const std::vector<float>& expected) {
    ASSERT_GT(logprobs["token_logprobs"].size(), expected.size());
    EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
    EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(logprobs["token_logprobs"][i + 1].get<float>(), expected[i]) << i;
      EXPECT_EQ(logprobs["text_offset"][i + 1], i + 1);
    }
  }
};

TEST_F(PromptLogprobs, AreThoseOfAPlainForward) {
  start();
  std::string text;
  for (int i = 0; i < 300; ++i) text += static_cast<char>('a' + i * i % 26);
  const Json plain_ask = {{"prompt", text}, {"max_tokens", 2}, {"seed", 4}};
  Json echo = plain_ask;
  echo["echo"] = true;
  echo["logprobs"] = 3;
  const Json first = post("/v1/completions", echo)["choices"][0];
  const Json without = post("/v1/completions", plain_ask)["choices"][0];  // what was read is in the cache
  const Json whole = post("/v1/completions", echo);
  EXPECT_EQ(whole["choices"][0], first);
  EXPECT_EQ(whole["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
  EXPECT_EQ(first["text"], text + without["text"].get<std::string>());
  expect_begins(first["logprobs"], plain(text));
  EXPECT_EQ(first["logprobs"]["tokens"].size(), text.size() + 2);
  EXPECT_EQ(first["logprobs"]["tokens"][0], text.substr(0, 1));
  EXPECT_EQ(first["logprobs"]["top_logprobs"][7].size(), 3u);

  Json none = echo;
  none["max_tokens"] = 0;
  none["n"] = 2;
  none["prompt"] = {text, text.substr(0, 90)};
  const Json many = post("/v1/completions", none)["choices"];
  ASSERT_EQ(many.size(), 4u);
  EXPECT_EQ(many[0]["text"], text);
  EXPECT_EQ(many[1]["logprobs"], many[0]["logprobs"]);
  EXPECT_EQ(many[3]["logprobs"]["tokens"].size(), 90u);
  expect_begins(many[3]["logprobs"], plain(text.substr(0, 89)));
}

TEST_F(PromptLogprobs, StreamedTheyComeBeforeTheFirstToken) {
  start();
  Json ask_for = {
      {"prompt", {"some words here", "and"}}, {"max_tokens", 3}, {"seed", 9}, {"echo", true}, {"logprobs", 1}};
  const Json whole = post("/v1/completions", ask_for);
  ask_for["stream"] = true;
  std::vector<std::string> texts(2);
  std::vector<Json> values(2, Json::array());
  for (const Json& chunk : events(ask("POST", "/v1/completions", ask_for.dump()))) {
    for (const Json& choice : chunk["choices"]) {
      const size_t index = choice["index"];
      texts[index] += choice["text"];
      if (choice["logprobs"].is_null()) continue;
      for (const Json& value : choice["logprobs"]["token_logprobs"]) values[index].push_back(value);
    }
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i], whole["choices"][i]["text"]);
    EXPECT_EQ(values[i], whole["choices"][i]["logprobs"]["token_logprobs"]);
  }
}

TEST_F(PromptLogprobs, OffsetsCountCharacters) {
  start();
  const Json body = {{"prompt", "a\u00e9b"}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}};
  EXPECT_EQ(post("/v1/completions", body)["choices"][0]["logprobs"]["text_offset"], Json({0, 1, 2, 2}));
}

TEST_F(PromptLogprobs, AfterAStateTheFirstTokenHasOneToo) {
  start();
  const std::string text = "a text of words, and some more of them";
  const std::string id = post("/v1/states", {{"prompt", text.substr(0, 20)}})["id"];
  const Json rest = post("/v1/completions", {{"state", id},
                                             {"prompt", text.substr(20)},
                                             {"max_tokens", 0},
                                             {"echo", true},
                                             {"logprobs", 0}})["choices"][0]["logprobs"];
  EXPECT_EQ(rest["tokens"].size(), text.size() - 20);
  EXPECT_NEAR(rest["token_logprobs"][0].get<float>(), plain(text)[19], 1e-3);
}

}  // namespace
}  // namespace carousel::serve
