// SPDX-License-Identifier: Apache-2.0
// Whatever else the engine does - other requests, prompts cut to ticks, beginnings that were read before, evictions,
// cancelled neighbours - a request is answered as generate() answers it alone, bit for bit.
#include "carousel/serve/engine.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "tests/comes_true.h"
#include "tests/like_host.h"
#include "tests/serve/small_model.h"

namespace carousel::serve {
namespace {

using generate::Request;
using generate::StopReason;

/// Runs what the engine posts, on the test's thread.
class Mailbox {
 public:
  Engine::Post post() {
    return [this](std::function<void()> then) {
      const std::lock_guard lock(mutex_);
      mail_.push_back(std::move(then));
      news_.notify_one();
    };
  }
  template <class Done>
  bool run_until(const Done& done) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!done()) {
      std::vector<std::function<void()>> mail;
      {
        std::unique_lock lock(mutex_);
        if (!news_.wait_until(lock, deadline, [&] { return !mail_.empty(); })) return false;
        mail.swap(mail_);
      }
      for (const auto& then : mail) then();
    }
    return true;
  }

 private:
  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<std::function<void()>> mail_;
};

class EngineTest : public testing::Test {
 protected:
  /// One of a few texts that others begin with too, up to a drawn length, then a drawn end.
  Request draw(Rng& rng) const {
    Request request;
    const auto family = static_cast<int32_t>(rng.bits() % 3);
    const auto shared = static_cast<int32_t>(rng.bits() % 400), own = static_cast<int32_t>(rng.bits() % 40);
    for (int32_t i = 0; i < shared; ++i) request.prompt.push_back((i * (family + 5) + i / 7) % 256);
    for (int32_t i = 0; i < own + 1; ++i) request.prompt.push_back(static_cast<int32_t>(rng.bits() % 256));
    request.seed = rng.bits() % 1000;
    request.max_tokens = static_cast<int64_t>(rng.bits() % 12);
    request.samples = rng.bits() % 4 == 0 ? 3 : 1;
    request.logprobs = true;
    request.prompt_logprobs = rng.bits() % 4 == 0;
    request.keep_hidden = rng.bits() % 4 == 0;
    return request;
  }

  struct Heard {
    std::vector<Said> samples;
    int64_t ended = 0, cached = 0;
    std::string error;
    bool whole() const { return ended == static_cast<int64_t>(samples.size()); }
  };

  uint64_t submit(Engine& engine, const Request& request, Heard& heard, const std::string& domain = "") {
    heard.samples.resize(static_cast<size_t>(request.samples));
    return engine.submit(
        request,
        [&heard](Event& event) {
          Said& said = heard.samples[static_cast<size_t>(event.sample)];
          for (const LoggedToken& token : event.prompt) said.prompt.push_back(*token.logprob);
          if (!event.prompt.empty()) return;
          said.text += event.text;
          if (!event.end) {
            said.ids.push_back(event.id);
            said.logprobs.push_back(event.logprob);
            return;
          }
          said.reason = event.end->reason;
          heard.error = event.end->error;
          heard.cached = event.cached;
          said.hidden = std::move(event.end->hidden);
          heard.ended++;
        },
        domain);
  }

  SmallModel small_;
  Mailbox mailbox_;
};

EngineOptions options(size_t cache_bytes) {
  EngineOptions out;
  out.parallel = 5;
  out.queue = 1000;
  out.cache_bytes = cache_bytes;
  out.tick_ms = 0.01;  // prompts are read a piece at a time
  return out;
}

TEST_F(EngineTest, EveryRequestIsAnsweredAsItIsAlone) {
  // A budget for everything, one that evicts all the time, and none.
  const size_t state = small_.model.state_layout().bytes_at(256);
  for (const size_t cache_bytes : {size_t{1} << 30, 6 * state, size_t{0}}) {
    EngineOptions some = options(cache_bytes);
    if (cache_bytes == 0) some.memory_bytes = 4 * small_.model.state_layout().bytes_at(500);
    Engine engine(small_.model, small_.stream, some, mailbox_.post());
    Rng rng(11, cache_bytes);
    constexpr size_t kRequests = 60;
    std::vector<Request> requests;
    std::vector<Heard> heard(kRequests);
    for (size_t i = 0; i < kRequests; ++i) {
      requests.push_back(draw(rng));
      const uint64_t number = submit(engine, requests.back(), heard[i]);
      ASSERT_GT(number, 0u);
      if (i % 7 == 3) engine.cancel(number);
    }
    ASSERT_TRUE(mailbox_.run_until(
        [&] { return std::all_of(heard.begin(), heard.end(), [](const Heard& one) { return one.whole(); }); }));
    int64_t cached = 0;
    for (size_t i = 0; i < kRequests; ++i) {
      cached += heard[i].cached;
      const std::vector<Said> alone = small_.alone(requests[i]);
      for (size_t k = 0; k < alone.size(); ++k) {
        const Said& said = heard[i].samples[k];
        if (said.reason == StopReason::kCancelled) {
          EXPECT_EQ(i % 7, 3u);
          EXPECT_LE(said.ids.size(), alone[k].ids.size());
        } else {
          EXPECT_EQ(said, alone[k]) << "request " << i << " sample " << k;
        }
      }
    }
    EXPECT_EQ(cached > 0, cache_bytes > 0);
    EXPECT_LE(engine.figures().cache_bytes.load(), static_cast<int64_t>(cache_bytes));
    EXPECT_EQ(engine.figures().cache_evictions > 0, cache_bytes == 6 * state);
  }
}

TEST_F(EngineTest, APromptThatWasReadIsNotReadAgain) {
  Engine engine(small_.model, small_.stream, options(size_t{1} << 30), mailbox_.post());
  Request request;
  for (int32_t i = 0; i < 1000; ++i) request.prompt.push_back(i % 251);
  request.max_tokens = 2;
  Heard first, second, longer, other;
  submit(engine, request, first);
  ASSERT_TRUE(mailbox_.run_until([&] { return first.whole(); }));
  EXPECT_EQ(first.cached, 0);
  submit(engine, request, second);
  ASSERT_TRUE(mailbox_.run_until([&] { return second.whole(); }));
  EXPECT_EQ(second.cached, 960);  // 15 pieces of 64
  EXPECT_EQ(second.samples, first.samples);
  submit(engine, request, other, "of someone else");
  ASSERT_TRUE(mailbox_.run_until([&] { return other.whole(); }));
  EXPECT_EQ(other.cached, 0);
  // One whose end is that of a piece: its last token has to be read again, and the piece before it.
  Request even = request;
  even.prompt.assign(640, 9);
  for (const int64_t cached : {0, 576}) {
    Heard heard;
    submit(engine, even, heard);
    ASSERT_TRUE(mailbox_.run_until([&] { return heard.whole(); }));
    EXPECT_EQ(heard.cached, cached);
  }
  // Two that leave the known text at 700: the first one marks the place.
  Request branch = request;
  branch.prompt.resize(700);
  branch.prompt.insert(branch.prompt.end(), 100, 7);
  submit(engine, branch, longer);
  ASSERT_TRUE(mailbox_.run_until([&] { return longer.whole(); }));
  EXPECT_EQ(longer.cached, 512);  // a step of a long prompt
  branch.prompt.back() = 8;
  branch.prompt[720] = 9;
  Heard again;
  submit(engine, branch, again);
  ASSERT_TRUE(mailbox_.run_until([&] { return again.whole(); }));
  EXPECT_EQ(again.cached, 640);
}

TEST_F(EngineTest, AFullQueueRefuses) {
  EngineOptions few = options(0);
  few.queue = 2;
  few.parallel = 1;
  Engine engine(small_.model, small_.stream, few, mailbox_.post());
  Request request;
  request.prompt.assign(2000, 5);
  request.max_tokens = 1;
  std::vector<Heard> heard(8);
  size_t taken = 0;
  for (Heard& one : heard) {
    try {
      submit(engine, request, one);
      taken++;
    } catch (const HttpError& error) {
      EXPECT_EQ(error.status, 429);
    }
  }
  EXPECT_GE(taken, 2u);
  EXPECT_LE(taken, 3u);
}

TEST_F(EngineTest, StatesOfRunningRequestsFitInTheirMemory) {
  Request request;
  for (int32_t i = 0; i < 150; ++i) request.prompt.push_back(i % 200);
  request.max_tokens = 100;
  request.logprobs = true;
  const StateLayout& layout = small_.model.state_layout();
  EngineOptions tight = options(0);
  tight.parallel = 64;
  tight.memory_bytes = 2 * layout.bytes_at(250) + 5;
  Engine engine(small_.model, small_.stream, tight, mailbox_.post());
  std::vector<Heard> heard(7);
  for (Heard& one : heard) submit(engine, request, one);
  int64_t most = 0, most_running = 0;
  ASSERT_TRUE(mailbox_.run_until([&] {
    most = std::max<int64_t>(most, engine.figures().reserved_bytes);
    most_running = std::max<int64_t>(most_running, engine.figures().running);
    return std::all_of(heard.begin(), heard.end(), [](const Heard& one) { return one.whole(); });
  }));
  EXPECT_EQ(most, static_cast<int64_t>(2 * layout.bytes_at(250)));
  EXPECT_EQ(most_running, 2);
  for (const Heard& one : heard) EXPECT_EQ(one.samples, small_.alone(request));

  // Samples share the pages of the whole prompt, and three of them never fit.
  request.samples = 3;
  Heard never;
  try {
    submit(engine, request, never);
    FAIL() << "three samples take more than two requests may";
  } catch (const HttpError& error) {
    EXPECT_EQ(error.status, 507);
    const size_t shared = layout.bytes_at(128) - layout.fixed_bytes();
    EXPECT_NE(error.message.find(std::to_string(3 * layout.bytes_at(250) - 2 * shared)), std::string::npos)
        << error.message;
  }
}

TEST_F(EngineTest, ACancelledRequestLeavesItsPlaceAlsoBeforeItsSamplesForked) {
  EngineOptions one = options(0);
  one.parallel = 3;
  Engine engine(small_.model, small_.stream, one, mailbox_.post());
  Request several, next;
  several.prompt.assign(100000, 5);
  several.samples = 3;
  next.prompt = {1, 2, 3};
  next.max_tokens = 4;
  next.logprobs = true;
  Heard left, heard;
  const uint64_t number = submit(engine, several, left);
  while (engine.figures().prompt_tokens == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  engine.cancel(number);
  submit(engine, next, heard);
  ASSERT_TRUE(mailbox_.run_until([&] { return left.whole() && heard.whole(); }));
  for (const Said& said : left.samples) EXPECT_EQ(said.reason, StopReason::kCancelled);
  EXPECT_EQ(heard.samples, small_.alone(next));
}

TEST_F(EngineTest, AModelThatIsFasterThanItsListenersWaits) {
  Engine engine(small_.model, small_.stream, options(0), mailbox_.post());
  Request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 500;
  request.logprobs = true;
  Heard heard;
  submit(engine, request, heard);
  int64_t ticks = -1;  // until there are no more: nobody listens
  while (std::exchange(ticks, engine.figures().ticks) != engine.figures().ticks || ticks == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_LT(ticks, 50);
  ASSERT_TRUE(mailbox_.run_until([&] { return heard.whole(); }));
  EXPECT_EQ(heard.samples, small_.alone(request));
}

/// The host's memory until it is lost, as that of a GPU may be.
class Losable final : public LikeHost {
 public:
  std::atomic<bool> lost = false;

  std::byte* allocate(size_t size_bytes) override {
    if (lost) fail(ErrorKind::kLost, "gone");
    return LikeHost::allocate(size_bytes);
  }
};

TEST_F(EngineTest, ALostDeviceEndsWhatRunsOnItAndIsToldOnce) {
  Losable memory;
  Stream stream = small_.stream;
  stream.memory = &memory;
  std::atomic<int> told = 0;
  EngineOptions some = options(0);
  some.on_lost = [&](const std::string& why) { told += why == "gone" ? 1 : 100; };
  Engine engine(small_.model, stream, some, mailbox_.post());
  Request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 4;
  for (const bool lost : {false, true, true}) {
    memory.lost = lost;
    Heard heard;
    submit(engine, request, heard);
    ASSERT_TRUE(mailbox_.run_until([&] { return heard.whole(); }));
    EXPECT_EQ(heard.samples[0].reason, lost ? StopReason::kFailed : StopReason::kLength);
    EXPECT_EQ(heard.error, lost ? "gone" : "");
  }
  EXPECT_EQ(told, 1);
}

TEST_F(EngineTest, ABadRequestEndsAlone) {
  Engine engine(small_.model, small_.stream, options(0), mailbox_.post());
  Request good, bad;
  good.prompt = bad.prompt = {1, 2, 3};
  good.max_tokens = bad.max_tokens = 4;
  good.logprobs = true;
  bad.prompt[1] = 300;
  Heard well, wrong;
  submit(engine, bad, wrong);
  submit(engine, good, well);
  ASSERT_TRUE(mailbox_.run_until([&] { return well.whole() && wrong.whole(); }));
  EXPECT_EQ(wrong.samples[0].reason, StopReason::kFailed);
  EXPECT_NE(wrong.error.find("300"), std::string::npos);
  EXPECT_EQ(well.samples, small_.alone(good));
}

}  // namespace
}  // namespace carousel::serve
