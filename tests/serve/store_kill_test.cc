// SPDX-License-Identifier: Apache-2.0
// Servers that are killed while they save: whatever said `stored` is there afterwards and loads, and nothing else
// shows.
#include <filesystem>
#include <mutex>
#include <set>

#include "carousel/core/json.h"
#include "carousel/core/rng.h"
#include "carousel/core/thread.h"
#include "tests/cli/process.h"
#include "tests/serve/client.h"
#include "tests/serve/counts.h"
#include "tests/serve/redis_server.h"
#include "tests/serve/spawned.h"

namespace carousel::serve {
namespace {

namespace fs = std::filesystem;

constexpr const char* kModel = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";

class Killed : public testing::Test {
 protected:
  std::vector<std::string> arguments() const {
    return {"serve", kModel, "--port", "0", "--threads", "1", "--store", store_, "--cache-bytes", "0"};
  }
  Answer ask(int port, const std::string& method, const std::string& path, const Json& body = {}) const {
    Client client(port);
    client.ask(method, path, body.is_null() ? "" : body.dump());
    return client.answer();
  }
  /// Keeps states until the server is gone, and notes those that were said to be stored.
  void keep_on(int port) {
    for (int i = 0;; ++i) {
      const Answer answer =
          ask(port, "POST", "/v1/states", {{"prompt", "Once " + std::to_string(i)}, {"keep_state", "stored"}});
      if (answer.status != 200) return;
      const Json card = Json::parse(answer.body, nullptr, false);
      if (!card.is_object()) return;
      const std::lock_guard lock(mutex_);
      told_.insert(card["id"]);
    }
  }
  void check(int port) const {
    std::set<std::string> listed;
    const Json list = Json::parse(ask(port, "GET", "/v1/states").body);
    for (const Json& card : list["data"]) {
      EXPECT_EQ(card["stored"], true);
      listed.insert(card["id"]);
    }
    for (const std::string& id : told_) EXPECT_TRUE(listed.contains(id)) << id << " said that it is stored";
    for (const std::string& id : listed) {
      const Answer answer =
          ask(port, "POST", "/v1/completions", {{"state", id}, {"prompt", " upon"}, {"max_tokens", 1}});
      EXPECT_EQ(answer.status, 200) << answer.body;
    }
  }

  /// Kills so many servers while three clients save, each within `most_us` microseconds. On a slow machine few saves
  /// end before their kill, so more are killed, within longer and longer times, until `enough` says so after one.
  void kill_while_saving(int kills, uint64_t most_us, const std::function<bool()>& enough) {
    Rng rng(most_us, 0);
    bool done = false;
    for (int kill = 0; kill < kills || (!done && kill < 10 * kills); ++kill) {
      cli::Process server(arguments());
      const int port = port_of(server);
      ASSERT_GT(port, 0) << server.err();
      std::vector<Thread> clients;
      for (int i = 0; i < 3; ++i) clients.emplace_back([this, port] { keep_on(port); });
      std::this_thread::sleep_for(std::chrono::microseconds(rng.bits() % (most_us << (kill / kills))));
      server.send(SIGKILL);
      server.wait();
      clients.clear();
      done = enough();
    }
  }

  const Scratch scratch_;
  std::string store_ = scratch_ / "store";
  std::mutex mutex_;
  std::set<std::string> told_;
};

TEST_F(Killed, WhileSavingLeaveNothingHalfVisible) {
  int halves = 0;  // drafts of killed writers
  kill_while_saving(std::max(40, times(40)), 60000, [&] {
    for (const auto& entry : fs::directory_iterator(store_)) {
      halves += entry.path().filename().string().starts_with('.') ? 1 : 0;
    }
    return halves > 0 && told_.size() > 10;
  });
  EXPECT_GT(halves, 0) << "no kill fell into a save";
  cli::Process server(arguments());
  const int port = port_of(server);
  ASSERT_GT(port, 0) << server.err();
  EXPECT_GT(told_.size(), 10u);
  check(port);
  // What the killed ones left is gone: every file belongs to a state that is listed.
  const size_t states = Json::parse(ask(port, "GET", "/v1/states").body)["data"].size();
  size_t files = 0;
  for (const auto& entry : fs::directory_iterator(store_)) {
    EXPECT_FALSE(entry.path().filename().string().starts_with('.')) << entry.path();
    files++;
  }
  EXPECT_EQ(files, 2 * states);
  server.send(SIGTERM);
  EXPECT_EQ(server.wait(), 0);
}

TEST_F(Killed, WhileSavingToRedisLeaveNothingHalfVisible) {
  if (!no_redis().empty()) GTEST_SKIP() << no_redis();
  RedisServer redis;
  store_ = redis.url();
  kill_while_saving(times(30), 120000, [&] { return told_.size() > 5; });
  cli::Process server(arguments());
  const int port = port_of(server);
  ASSERT_GT(port, 0) << server.err();
  EXPECT_GT(told_.size(), 5u);
  check(port);
  server.send(SIGTERM);
  EXPECT_EQ(server.wait(), 0);
}

TEST_F(Killed, ARedisThatIsKilledInMidSaveShowsWholeStatesAlone) {
  if (!no_redis().empty()) GTEST_SKIP() << no_redis();
  RedisServer redis({"--appendonly", "yes", "--appendfsync", "always"});
  store_ = redis.url();
  cli::Process server(arguments());
  const int port = port_of(server);
  ASSERT_GT(port, 0) << server.err();
  Rng rng(7, 0);
  for (int kill = 0; kill < 8 || (told_.size() <= 3 && kill < 80); ++kill) {  // few saves end on a slow machine
    std::vector<Thread> clients;
    for (int i = 0; i < 3; ++i) clients.emplace_back([this, port] { keep_on(port); });
    std::this_thread::sleep_for(std::chrono::microseconds((20000 + rng.bits() % 60000) << (kill / 8)));
    redis.kill();
    clients.clear();  // each ends with an error
    redis.start();
    EXPECT_TRUE(comes_true([&] { return ask(port, "GET", "/v1/states").status == 200; }));
  }
  EXPECT_GT(told_.size(), 3u);
  check(port);
}

TEST_F(Killed, ARedisThatCannotBeUsedIsOneLine) {
  const auto said = [](const std::string& store, int status) {
    cli::Process server({"serve", kModel, "--port", "0", "--threads", "1", "--store", store});
    EXPECT_EQ(server.wait(), status) << store;
    const std::string err = server.err();
    EXPECT_EQ(err.find("secret"), err.npos) << err;
    EXPECT_NE(err.find("redis://"), err.npos) << err;
    return err;
  };
  said("redis://:secret@", 2);
  said("redis://:secret@127.0.0.1:1/0", 1);
  if (!no_redis().empty()) GTEST_SKIP() << no_redis();
  const RedisServer redis({"--requirepass", "right"});
  const std::string place = redis.url().substr(8);
  EXPECT_NE(said("redis://" + place, 1).find("refuses"), std::string::npos);
  said("redis://:secret@" + place, 1);
  store_ = "redis://:right@" + place;
  cli::Process server(arguments());
  const int port = port_of(server);
  ASSERT_GT(port, 0) << server.err();
  EXPECT_EQ(ask(port, "POST", "/v1/states", {{"prompt", "Once"}, {"keep_state", "stored"}}).status, 200);
  EXPECT_EQ(server.err().find("right"), std::string::npos);
}

TEST_F(Killed, ByATermSignalTheyFinishSaving) {
  std::string id;
  {
    cli::Process server(arguments());
    const int port = port_of(server);
    ASSERT_GT(port, 0) << server.err();
    id = Json::parse(ask(port, "POST", "/v1/states", {{"prompt", "Once upon"}}).body)["id"];
    server.send(SIGTERM);
    EXPECT_EQ(server.wait(), 0);
  }
  cli::Process server(arguments());
  const int port = port_of(server);
  const Json body = {{"state", id}, {"prompt", " a"}, {"max_tokens", 1}};
  EXPECT_EQ(ask(port, "POST", "/v1/completions", body).status, 200);
}

}  // namespace
}  // namespace carousel::serve
