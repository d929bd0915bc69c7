// SPDX-License-Identifier: Apache-2.0
// States in a Redis: they outlive servers, servers share them, and a Redis that is lost, hangs or is full is an error
// of the requests that need it, for as long as it is.
#include <chrono>

#include "tests/comes_true.h"
#include "tests/serve/redis_server.h"
#include "tests/serve/stored_service.h"

namespace carousel::serve {
namespace {

class InRedis : public StoredService {
 protected:
  void SetUp() override {
    if (!no_redis().empty()) GTEST_SKIP() << no_redis();
    redis_.emplace();
  }
  void place(StoreOptions& store) const override { store.redis = redis_->address(); }
  size_t listed() { return Json::parse(ask("GET", "/v1/states").body)["data"].size(); }

  std::optional<RedisServer> redis_;
};

TEST_F(InRedis, AStateOutlivesTheServer) {
  begin();
  const std::string id = keep("a");
  const Json said = go_on(*this, id), card = Json::parse(ask("GET", "/v1/states/" + id).body);
  EXPECT_EQ(redis_->ask("EXISTS carousel:part:" + id + ":1"), ":1\r\n") << "expected more than one part";
  stop();
  begin();
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states/" + id).body), card);
  EXPECT_EQ(Json::parse(ask("GET", "/v1/states").body)["data"], Json::array({card}));
  EXPECT_EQ(go_on(*this, id), said);
  EXPECT_EQ(ask("DELETE", "/v1/states/" + id).status, 200);
  EXPECT_EQ(redis_->ask("DBSIZE"), ":0\r\n");
  go_on(*this, id, 404);
}

TEST_F(InRedis, ServersGoOnFromEachOthersIds) { go_on_from_each_others_ids(); }

TEST_F(InRedis, StatesExpireByThemselves) {
  begin([](ServiceOptions& options) { options.store.ttl = 1; });
  const std::string id = keep("a");
  EXPECT_TRUE(comes_true([&] { return ask("GET", "/v1/states/" + id).status != 200; }));
  go_on(*this, id, 404);
  EXPECT_EQ(listed(), 0u);
  EXPECT_TRUE(comes_true([&] { return redis_->ask("DBSIZE") == ":1\r\n"; }));
  EXPECT_EQ(redis_->ask("DBSIZE"), ":1\r\n");  // the hash
  stop();
  begin();  // a server that starts tidies it
  EXPECT_EQ(redis_->ask("DBSIZE"), ":0\r\n");
}

TEST_F(InRedis, AFullOneRefuses) {
  begin([](ServiceOptions& options) { options.store.most_bytes = 100000; });
  int status = 200;
  for (int i = 0; i < 20 && status == 200; ++i) status = try_keep("a").status;
  EXPECT_EQ(status, 507);
  stop();
  redis_->ask("FLUSHALL");
  redis_->ask("CONFIG SET maxmemory 1");
  begin();
  const Answer answer = try_keep("a");
  EXPECT_EQ(answer.status, 507) << answer.body;
  EXPECT_EQ(Json::parse(answer.body)["error"]["code"], "store_full");
  EXPECT_NE(answer.head.find("x-should-retry: false"), answer.head.npos);
  EXPECT_EQ(listed(), 0u);
}

TEST_F(InRedis, AMissingPartIsSaid) {
  begin();
  const std::string id = keep("a");
  stop();
  redis_->ask("DEL carousel:part:" + id + ":1");
  begin();
  EXPECT_EQ(go_on(*this, id, 422)["code"], "state_refused");
}

TEST_F(InRedis, ALostOneIsAnErrorUntilItIsThereAgain) {
  begin();
  const std::string id = keep("a");
  redis_->kill();
  const Json error = go_on(*this, id, 503);
  EXPECT_EQ(error["code"], "store_unavailable");
  EXPECT_EQ(ask("GET", "/v1/states").status, 503);
  EXPECT_EQ(try_keep("b").status, 503);
  post("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 2}});  // needs no store
  redis_->start();
  EXPECT_TRUE(comes_true([&] { return try_keep("c").status == 200; }));
  keep("d");
  go_on(*this, id, 404);  // that Redis kept nothing
}

TEST_F(InRedis, OneThatHangsStopsNobodyElse) {
  using Clock = std::chrono::steady_clock;
  begin();
  const std::string id = keep("a");
  redis_->send(SIGSTOP);
  // Once in a few times, for the machine may be busy: others wait less than the limit of 5 s, and eight of those limits
  // are not one after the other.
  const auto stops_nobody_else = [&] {
    const auto begun = Clock::now();
    std::vector<Thread> clients;
    for (int i = 0; i < 8; ++i) clients.emplace_back([this, &id] { go_on(*this, id, 503); });
    post("/v1/completions", {{"prompt", "abc"}, {"max_tokens", 2}});
    EXPECT_EQ(ask("GET", "/health").status, 200);
    const auto others = Clock::now() - begun;
    clients.clear();
    return others < std::chrono::seconds(4) && Clock::now() - begun < std::chrono::seconds(30);
  };
  EXPECT_TRUE(comes_true(stops_nobody_else));
  redis_->send(SIGCONT);
  EXPECT_TRUE(comes_true([&] { return try_keep("c").status == 200; }));
  EXPECT_EQ(go_on(*this, id), go_on(*this, id));
}

TEST(RedisUrl, IsReadWithoutShowingThePassword) {
  const RedisAddress address = parse_redis("redis://me:a%40b/c@host:77/3");
  EXPECT_EQ(address.user, "me");
  EXPECT_EQ(address.password, "a@b/c");
  EXPECT_EQ(address.name(), "redis://host:77/3");
  EXPECT_EQ(parse_redis("redis://:p@[::1]").name(), "redis://[::1]:6379/0");
  for (const char* const url : {"redis://", "redis://:secret@:1/2", "redis://:secret@h:x", "redis://:secret@h:1/y"}) {
    try {
      parse_redis(url);
      ADD_FAILURE() << url;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_EQ(std::string(error.what()).find("secret"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace carousel::serve
