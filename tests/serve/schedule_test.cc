// SPDX-License-Identifier: Apache-2.0
// Random schedules of requests: batches, forks of kept states, clients that leave, beginnings that are evicted, states
// that are deleted, or written and fetched again. Whatever runs beside it, each answer has the tokens and log
// probabilities of generate() alone.
#include <atomic>

#include "carousel/core/rng.h"
#include "tests/serve/counts.h"
#include "tests/serve/redis_server.h"
#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

/// What one choice of an answer says.
struct Choice {
  std::vector<float> logprobs;
  std::string text, finish, state;
};

/// A kept state as the client knows it, and as generate() has it.
struct Known {
  std::string id;
  State state;
  std::vector<int32_t> history;
  Tensor logits;
};

/// A client with requests of its own, one after the other, and a model's oracle on a pool of its own.
class Guest {
 public:
  Guest(RunningService& server, uint64_t number)
      : server_(server), rng_(number, 7), pool_(1), stream_{&Memory::host(), server.small_.stream.isa, &pool_} {}

  void visit(int requests) {
    for (int i = 0; i < requests && !testing::Test::HasFailure(); ++i) {
      const uint32_t what = rng_.bits() % 10;
      if (what == 0 && !known_.empty()) {
        forget();
      } else if (what == 1) {
        leave();
      } else {
        ask();
      }
    }
  }
  int64_t compared() const { return compared_; }  // choices
  int64_t forks() const { return forks_; }

 private:
  /// A text that others begin with too, up to a drawn length, then a drawn end.
  std::vector<int32_t> draw_prompt() {
    std::vector<int32_t> ids;
    const auto family = static_cast<int32_t>(rng_.bits() % 3);
    const auto shared = static_cast<int32_t>(rng_.bits() % 300), own = static_cast<int32_t>(rng_.bits() % 30);
    for (int32_t i = 0; i < shared; ++i) ids.push_back((i * (family + 5) + i / 7) % 256);
    for (int32_t i = 0; i < own + 1; ++i) ids.push_back(static_cast<int32_t>(rng_.bits() % 256));
    return ids;
  }

  Json draw_body() {
    Json body = {{"max_tokens", rng_.bits() % 12},
                 {"seed", rng_.bits() % 1000},
                 {"logprobs", 0},
                 {"n", rng_.bits() % 4 == 0 ? 3 : 1},
                 {"stream", rng_.bits() % 2 == 0}};
    if (rng_.bits() % 3 == 0) body["keep_state"] = true;
    return body;
  }

  void ask() {
    Json body = draw_body();
    generate::Request request;
    request.prompt = draw_prompt();
    if (!known_.empty() && rng_.bits() % 2 == 0) {
      const Known& from = known_[rng_.bits() % known_.size()];
      request.prompt.resize(1 + rng_.bits() % request.prompt.size());
      request.state = from.state;
      request.history = from.history;
      request.logits = from.logits;
      body["state"] = from.id;
      forks_++;
    }
    body["prompt"] = request.prompt;
    request.max_tokens = body["max_tokens"];
    request.seed = body["seed"];
    request.samples = body["n"];
    request.logprobs = true;
    request.keep_state = body.contains("keep_state");
    const Answer answer = server_.ask("POST", "/v1/completions", body.dump());
    if (request.keep_state && is_full(answer)) return;
    ASSERT_EQ(answer.status, 200) << answer.body;
    compare(choices(answer, body), std::move(request), body);
  }

  /// Memory is full of states that the store has not written yet: one more is not kept.
  static bool is_full(const Answer& answer) {
    return answer.status == 429 || answer.body.find("\"type\":\"rate_limit_error\"") != answer.body.npos;
  }

  static std::vector<Choice> choices(const Answer& answer, const Json& body) {
    std::vector<Choice> out(body["n"].get<size_t>());
    const std::vector<Json> pieces =
        body["stream"] ? RunningService::events(answer) : std::vector<Json>{Json::parse(answer.body)};
    for (const Json& piece : pieces) {
      EXPECT_TRUE(piece.contains("choices")) << piece;
      for (const Json& choice : piece.value("choices", Json::array())) {
        Choice& one = out.at(choice["index"].get<size_t>());
        one.text += choice["text"];
        if (choice["logprobs"].is_object()) {
          for (const Json& value : choice["logprobs"]["token_logprobs"]) one.logprobs.push_back(value);
        }
        if (choice["finish_reason"].is_string()) one.finish = choice["finish_reason"];
        if (choice.contains("state")) one.state = choice["state"];
      }
    }
    return out;
  }

  /// Keeps what generate() keeps, beside the id under which the server keeps it.
  void compare(const std::vector<Choice>& said, generate::Request request, const Json& body) {
    std::vector<Choice> alone(said.size());
    std::vector<Known> kept(said.size());
    request.on_token = [&](const generate::Emitted& token) {
      alone[static_cast<size_t>(token.sample)].logprobs.push_back(token.logprob);
      alone[static_cast<size_t>(token.sample)].text += token.text;
      return true;
    };
    request.on_finish = [&](generate::Finished& finished) {
      const auto k = static_cast<size_t>(finished.sample);
      alone[k].text += finished.text;
      alone[k].finish = finished.reason == generate::StopReason::kLength ? "length" : "stop";
      kept[k] = {said[k].state, std::move(finished.state), std::move(finished.history), std::move(finished.logits)};
    };
    const bool keeps = request.keep_state;
    generate::generate(server_.small_.model, stream_, std::move(request));
    for (size_t k = 0; k < said.size(); ++k) {
      EXPECT_EQ(said[k].logprobs, alone[k].logprobs) << body;
      EXPECT_EQ(said[k].finish, alone[k].finish) << body;
      EXPECT_EQ(said[k].text, in_json(alone[k].text)) << body;
      EXPECT_EQ(said[k].state.empty(), !keeps) << body;
      compared_++;
      if (keeps && known_.size() < 12) known_.push_back(std::move(kept[k]));
    }
  }

  /// Deletes a state, whose children go on being there.
  void forget() {
    const size_t at = rng_.bits() % known_.size();
    EXPECT_EQ(server_.ask("DELETE", "/v1/states/" + known_[at].id).status, 200);
    known_.erase(known_.begin() + static_cast<std::ptrdiff_t>(at));
  }

  /// Asks, and is gone before the end.
  void leave() {
    Json body = draw_body();
    body["prompt"] = draw_prompt();
    body["max_tokens"] = 400;
    body.erase("keep_state");
    Client client(server_.server_->port());
    client.ask("POST", "/v1/completions", body.dump());
    client.receive(static_cast<int>(rng_.bits() % 10));
  }

  RunningService& server_;
  Rng rng_;
  ThreadPool pool_;
  const Stream stream_;
  std::vector<Known> known_;
  int64_t compared_ = 0, forks_ = 0;
};

class Schedules : public testing::Test, public RunningService {
 protected:
  /// `requests` of guests that are there at the same time.
  void run(int requests) {
    constexpr int kGuests = 6;
    std::vector<std::unique_ptr<Guest>> guests;
    std::vector<Thread> threads;
    for (uint64_t i = 0; i < kGuests; ++i) {
      guests.push_back(std::make_unique<Guest>(*this, i));
      threads.emplace_back([guest = guests.back().get(), requests] { guest->visit(requests / kGuests + 1); });
    }
    threads.clear();
    int64_t compared = 0, forks = 0;
    for (const auto& guest : guests) {
      compared += guest->compared();
      forks += guest->forks();
    }
    EXPECT_GT(compared, requests / 2);
    EXPECT_GT(forks, 0);
    RecordProperty("choices_compared", std::to_string(compared));
  }
  /// Caches of a few states, and ticks of a piece of a prompt.
  void start_small(ServiceOptions& options) const {
    const size_t state = small_.model.state_layout().bytes_at(256);
    options.engine.parallel = 5;
    options.engine.tick_ms = 0.01;
    options.engine.cache_bytes = 6 * state;
    options.state_bytes = size_t{1} << 30;
  }
  /// Memory holds some of the states that the store has.
  void start_stored(ServiceOptions& options) const {
    start_small(options);
    options.state_bytes = 24 * small_.model.state_layout().bytes_at(256);
  }
};

TEST_F(Schedules, InMemoryChangeNoAnswer) {
  start([&](ServiceOptions& options) { start_small(options); });
  run(times(250));
}

TEST_F(Schedules, WithAFolderChangeNoAnswer) {
  const Scratch folder;
  start([&](ServiceOptions& options) {
    start_stored(options);
    options.store.folder = folder / "store";
  });
  run(times(250));
}

TEST_F(Schedules, WithARedisChangeNoAnswer) {
  if (!no_redis().empty()) GTEST_SKIP() << no_redis();
  const RedisServer redis;
  start([&](ServiceOptions& options) {
    start_stored(options);
    options.store.redis = redis.address();
  });
  run(times(250));
}

}  // namespace
}  // namespace carousel::serve
