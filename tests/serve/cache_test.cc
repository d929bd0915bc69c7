// SPDX-License-Identifier: Apache-2.0
// Which states a prompt begins with: exact ones, after answers were read again in idle time, or any.
#include <atomic>

#include "carousel/core/rng.h"
#include "tests/comes_true.h"
#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

constexpr int64_t kPiece = PrefixCache::kPiece;

class CacheTest : public ServiceTest {
 protected:
  int64_t metric(const std::string& name) {
    const std::string body = ask("GET", "/metrics").body, line = "carousel:" + name + "{";
    const size_t at = body.find(line);
    return at == body.npos ? -1 : std::atoll(body.c_str() + body.find("} ", at) + 2);
  }
  /// Waits until no text is to be read again, and gives the rows that were.
  int64_t idle_rows(int64_t at_least) {
    int64_t rows = 0;
    EXPECT_TRUE(comes_true([&] {
      rows = metric("idle_prompt_tokens_total");
      return rows >= at_least && metric("idle_texts_waiting") == 0;
    })) << rows;
    return rows;
  }
  static int64_t cached(const Json& answer) { return answer["usage"]["prompt_tokens_details"]["cached_tokens"]; }
  static Json message(const char* role, const std::string& text) { return {{"role", role}, {"content", text}}; }
  /// A chat whose answers are ASCII, so that their text has the tokens that were sampled.
  static Json chat(const Json& messages) {
    Json bias = Json::object();
    for (int id = 0; id < 256; ++id) {
      if (id < 'a' || id > 'z') bias[std::to_string(id)] = -100;
    }
    return {{"messages", messages}, {"max_tokens", 150}, {"seed", 4}, {"logprobs", true}, {"logit_bias", bias}};
  }
  static Json with(Json body, const char* reuse) {
    body["cache"] = reuse;
    return body;
  }
  static Json text_of(const Json& answer) { return answer["choices"][0]["message"]["content"]; }
};

TEST_F(CacheTest, TheNextTurnFindsTheAnswerReadAgain) {
  start();
  Json messages = Json::array({message("user", std::string(90, 'q'))});
  int64_t seen = 0;
  for (int turn = 0; turn < 3; ++turn) {
    const Json body = chat(messages), answer = post("/v1/chat/completions", body);
    EXPECT_EQ(cached(answer), seen / kPiece * kPiece) << "turn " << turn;
    EXPECT_EQ(answer["choices"], post("/v1/chat/completions", with(body, "off"))["choices"]);
    messages.push_back(message("assistant", text_of(answer)));
    seen = answer["usage"]["prompt_tokens"].get<int64_t>() + 150 + std::ssize(std::string("<|im_end|>\n"));
    idle_rows(128 * (turn + 1));
    messages.push_back(message("user", "and?"));
  }
  EXPECT_GE(metric("idle_prompt_tokens_total"), 3 * 128);
  EXPECT_LE(metric("idle_prompt_tokens_total"), 3 * 192);
}

TEST_F(CacheTest, TheNextTurnMayGoOnFromAnyChoice) {
  start();
  const Json first = Json::array({message("user", std::string(90, 'q'))});
  Json body = chat(first);
  body["n"] = 3;
  const Json answer = post("/v1/chat/completions", body);
  const int64_t seen = answer["usage"]["prompt_tokens"].get<int64_t>() + 150 + std::ssize(std::string("<|im_end|>\n"));
  idle_rows(3 * 128);
  for (const Json& choice : answer["choices"]) {
    Json messages = first;
    messages.push_back(message("assistant", choice["message"]["content"]));
    messages.push_back(message("user", "and?"));
    const Json next = chat(messages), gone_on = post("/v1/chat/completions", next);
    EXPECT_EQ(cached(gone_on), seen / kPiece * kPiece);
    EXPECT_EQ(gone_on["choices"], post("/v1/chat/completions", with(next, "off"))["choices"]);
  }
}

TEST_F(CacheTest, AnyBeginsWhereAnAnswerEnded) {
  start([](ServiceOptions& options) { options.engine.reuse = Reuse::kAny; });
  const Json first = Json::array({message("user", "what is it?")}), answer = post("/v1/chat/completions", chat(first));
  const Json second = {first[0], message("assistant", text_of(answer)), message("user", "and?")};
  const Json any = post("/v1/chat/completions", chat(second));
  // The last token that was sampled has not been run.
  EXPECT_EQ(cached(any), answer["usage"]["total_tokens"].get<int64_t>() - 1);
  usleep(200'000);  // four times as long as the engine waits before it reads texts again; `exact` below is such a text
  EXPECT_EQ(metric("idle_prompt_tokens_total"), 0);
  const Json exact = post("/v1/chat/completions", with(chat(second), "exact"));
  EXPECT_EQ(cached(exact), 0);  // nothing of what was read after a text that was decoded
  EXPECT_EQ(exact["choices"], post("/v1/chat/completions", with(chat(second), "off"))["choices"]);
  const Json &near = any["choices"][0]["logprobs"]["content"], &cold = exact["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(near[0]["token"], cold[0]["token"]);
  EXPECT_NEAR(near[0]["logprob"].get<double>(), cold[0]["logprob"].get<double>(), 2e-5);
  EXPECT_GT(idle_rows(1), 0);
}

TEST_F(CacheTest, OffNeitherFindsNorKeeps) {
  start();
  const Json body = {{"prompt", std::string(200, 'o')}, {"max_tokens", 1}, {"seed", 1}};
  const Json off = post("/v1/completions", with(body, "off"));
  EXPECT_EQ(off["carousel"]["cache"], (Json{{"off", 200}}));
  EXPECT_EQ(cached(post("/v1/completions", body)), 0);
  EXPECT_EQ(cached(post("/v1/completions", body)), 192);
  EXPECT_EQ(cached(post("/v1/completions", with(body, "off"))), 0);
  const Json error = post("/v1/completions", with(body, "some"), 400)["error"];
  EXPECT_EQ(error["param"], "cache");
  EXPECT_EQ(post("/v1/embeddings", {{"input", "a"}, {"cache", 1}}, 400)["error"]["param"], "cache");
}

/// An engine whose listeners run on its own thread.
struct BareEngine {
  explicit BareEngine(const SmallModel& small, size_t cache_bytes = size_t{1} << 30)
      : engine(small.model, small.stream, options(cache_bytes), [](const std::function<void()>& told) { told(); }) {}
  static EngineOptions options(size_t cache_bytes) {
    EngineOptions out;
    out.cache_bytes = cache_bytes;
    return out;
  }
  /// What an answer is, and how many tokens of its prompt were cached.
  std::pair<std::vector<float>, int64_t> ask(const std::vector<int32_t>& prompt, int64_t tokens,
                                             std::vector<int32_t>* ids = nullptr) {
    generate::Request request;
    request.prompt = prompt;
    request.max_tokens = tokens;
    request.seed = 9;
    request.logprobs = true;
    std::pair<std::vector<float>, int64_t> said;
    std::atomic<bool> over = false;
    engine.submit(std::move(request), [&](Event& event) {
      if (!event.end) {
        said.first.push_back(event.logprob);
        if (ids != nullptr) ids->push_back(event.id);
        return;
      }
      said.second = event.cached;
      over = true;
    });
    while (!over) usleep(100);
    return said;
  }
  Engine engine;
};

std::vector<int32_t> drawn(int64_t count, uint64_t seed) {
  Rng rng(seed, 0);
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(rng.bits() % 256));
  return out;
}

TEST(Reread, YieldsToEveryRequestAndGoesOn) {
  const SmallModel small;
  BareEngine server(small);
  const std::vector<int32_t> text = drawn(10000, 3), other = drawn(100, 4);
  const std::vector<float> alone = small
                                       .alone([&] {
                                         generate::Request request;
                                         request.prompt = other;
                                         request.max_tokens = 3;
                                         request.seed = 9;
                                         request.logprobs = true;
                                         return request;
                                       }())[0]
                                       .logprobs;
  const EngineFigures& figures = server.engine.figures();
  server.engine.read_again(text, "");
  int between = 0;
  for (int i = 0; i < 200 && figures.reread_tokens < 9984; ++i) {
    const int64_t before = figures.reread_tokens;
    EXPECT_TRUE(comes_true([&] { return figures.reread_tokens != before; }));
    EXPECT_EQ(server.ask(other, 3).first, alone);
    between += figures.reread_waiting > 0 ? 1 : 0;
  }
  EXPECT_GT(between, 2) << "no request came between";
  EXPECT_TRUE(comes_true([&] { return figures.reread_waiting == 0; }));
  EXPECT_EQ(figures.reread_tokens, 10000 / kPiece * kPiece);  // each piece once
  EXPECT_EQ(figures.running, 0);
  const auto [said, cached] = server.ask(text, 1);
  EXPECT_EQ(cached, (10000 - 1) / kPiece * kPiece);
}

TEST(Reread, IsBounded) {
  const SmallModel small;
  BareEngine server(small, small.model.state_layout().bytes_at(1000));
  server.engine.read_again(drawn(2000, 1), "");  // its state would not fit in the cache
  server.engine.read_again(drawn(63, 1), "");    // not one piece
  for (uint64_t i = 0; i < 200; ++i) server.engine.read_again(drawn(64 + 64 * static_cast<int64_t>(i % 3), i), "");
  server.ask({1}, 1);
  const EngineFigures& figures = server.engine.figures();
  EXPECT_TRUE(comes_true([&] { return figures.reread_waiting == 0; }));
  EXPECT_GT(figures.reread_dropped, 100);
  EXPECT_GT(figures.reread_tokens, 0);
  EXPECT_LE(figures.reread_tokens, 200 * 192);
}

TEST(Reread, LeavesATextOfIdsThatTheModelLacks) {
  const SmallModel small;
  BareEngine server(small);
  server.engine.read_again(std::vector<int32_t>(2 * kPiece, 1 << 20), "");
  const EngineFigures& figures = server.engine.figures();
  EXPECT_TRUE(comes_true([&] { return figures.reread_dropped == 1; }));
  EXPECT_EQ(figures.reread_tokens, 0);
  EXPECT_FALSE(server.ask({1}, 1).first.empty());
}

TEST(PrefixCache, DomainsTakeNoMoreThanItsBytes) {
  const SmallModel small;
  constexpr size_t kMost = 100000;
  PrefixCache cache(small.model.state_layout(), kMost);
  size_t most = 0;
  for (int i = 0; i < 5000; ++i) {
    const std::string domain = std::to_string(i) + std::string(200, 'x');
    const std::vector<int32_t> prompt = drawn(i % 2 == 0 ? kPiece : 5, 1);
    EXPECT_EQ(cache.find(domain, prompt, std::ssize(prompt), true).state.pos(), 0);
    EXPECT_EQ(cache.known(domain, prompt), 0);
    cache.marks(domain, prompt, 0);
    most = std::max(most, cache.bytes());
  }
  EXPECT_GT(most, kMost / 2) << "domains take none";
  EXPECT_LE(most, kMost);
}

TEST(Reread, IsNotNeededWhereEveryCutIsExact) {
  const SmallModel small({"conv", "full_attention"});
  BareEngine server(small), cold(small, 0);
  std::vector<int32_t> text = drawn(100, 7);
  const auto first = server.ask(text, 77, &text);
  text.push_back(5);
  const auto warm = server.ask(text, 9), fresh = cold.ask(text, 9);
  EXPECT_EQ(warm.second, 176);  // all but the last sampled token and the new one
  EXPECT_EQ(warm.first, fresh.first);
  EXPECT_EQ(server.engine.figures().reread_tokens, 0);
}

}  // namespace
}  // namespace carousel::serve
