// SPDX-License-Identifier: Apache-2.0
// Clients that send nonsense, too much, too slowly, or leave: each is answered or cut off, and a stream beside them is
// answered as it is alone.
#include <atomic>
#include <thread>

#include "carousel/core/rng.h"
#include "tests/comes_true.h"
#include "tests/serve/counts.h"
#include "tests/serve/running_service.h"

namespace carousel::serve {
namespace {

class Hostile : public ServiceTest {
 protected:
  using Lines = std::vector<std::string>;

  /// Streams one text after the other beside what `harm` does, and compares each with the model alone.
  void beside_a_stream(const std::function<void()>& harm) {
    const std::string expected = in_json(alone("beside", 40, 9));
    std::atomic<bool> over = false;
    std::atomic<int> whole = 0;
    Thread steady([&] {
      const Json body = {{"prompt", "beside"}, {"max_tokens", 40}, {"seed", 9}, {"stream", true}};
      do {
        const Answer answer = ask("POST", "/v1/completions", body.dump());
        std::string text;
        for (const Json& chunk : events(answer)) {
          for (const Json& choice : chunk["choices"]) text += choice["text"];
        }
        EXPECT_EQ(answer.status, 200);
        EXPECT_EQ(text, expected);
        whole++;
      } while (!over);
    });
    harm();
    over = true;
    steady.join();
    EXPECT_GT(whole, 0);
    expect_nothing_runs();
  }

  /// A gauge of /metrics.
  double gauge(const std::string& name) {
    const std::string text = ask("GET", "/metrics").body, line = "\ncarousel:" + name + "{model_name=\"small\"} ";
    const size_t at = text.find(line);
    return at == text.npos ? -1 : std::strtod(text.c_str() + at + line.size(), nullptr);
  }
  void expect_nothing_runs() {
    const auto runs = [&] {
      return gauge("num_requests_running") != 0 || gauge("num_requests_waiting") != 0 ||
             gauge("running_state_bytes") != 0;
    };
    EXPECT_TRUE(comes_true([&] { return !runs(); }));
  }
};

const char* const kPosts[] = {"/v1/completions", "/v1/chat/completions", "/v1/responses",
                              "/v1/states",      "/v1/embeddings",       "/tokenize",
                              "/detokenize"};

std::string nested(size_t depth, char open, char close) {
  return "{\"prompt\": " + std::string(depth, open) + std::string(depth, close) + "}";
}

TEST_F(Hostile, BadJsonIsRefusedByEveryEndpoint) {
  start();
  const std::string bodies[] = {"",
                                " ",
                                "null",
                                "5",
                                "\"prompt\"",
                                "[{}]",
                                "{",
                                "{}}",
                                "{} {}",
                                "{\"prompt\": \"a\",}",
                                "{'prompt': 'a'}",
                                "{\"prompt\": \"a\", \"prompt\": \"b\"}",
                                "{\"input\": \"a\", \"x\": {\"y\": 1, \"y\": 2}}",
                                "{\"prompt\": \"\xff\xfe\"}",
                                "{\"prompt\": \"\xc0\x80\"}",
                                "{\"prompt\": \"\xed\xa0\x80\"}",
                                "{\"prompt\": \"\\ud800\"}",
                                "{\"pr\\udc00mpt\": 1}",
                                std::string("{\"prompt\": \"a\0b\"}", 17),
                                std::string("{}\0", 3),
                                "\xef\xbb\xbf{\"prompt\"",
                                "{\"prompt\": 1e999}",
                                "{\"max_tokens\": NaN}",
                                "{\"prompt\": \"a\" // a comment\n",
                                nested(64, '[', ']'),
                                nested(100000, '[', ']'),
                                "{\"prompt\": " + std::string(1000000, '[') + "}",
                                "{\"prompt\": " + std::string(200000, '{')};
  beside_a_stream([&] {
    for (const char* const path : kPosts) {
      for (const std::string& body : bodies) {
        const Answer answer = ask("POST", path, body);
        EXPECT_EQ(answer.status, 400) << path << " " << body.substr(0, 60);
        const Json said = Json::parse(answer.body, nullptr, false);
        ASSERT_TRUE(said.is_object() && said["error"]["message"].is_string()) << answer.body;
        EXPECT_LT(answer.body.size(), 1000u) << "an error says what is wrong, not all of it";
      }
    }
  });
}

TEST_F(Hostile, FieldsOfEveryTypeAreAnsweredOrRefused) {
  start([](ServiceOptions& options) {
    options.state_bytes = size_t{1} << 30;
    options.limits.max_tokens = 40;
  });
  const Json values[] = {nullptr,
                         true,
                         -1,
                         0,
                         1,
                         9223372036854775807LL,
                         -1e308,
                         1.5,
                         "",
                         "a",
                         Json::array(),
                         Json::object(),
                         {1},
                         {""},
                         {{}},
                         {nullptr},
                         {{"a", "b"}},
                         {{{"role", "user"}}}};
  const char* const fields[] = {"prompt",      "messages",
                                "input",       "state",
                                "max_tokens",  "n",
                                "stop",        "seed",
                                "temperature", "logit_bias",
                                "logprobs",    "echo",
                                "stream",      "stream_options",
                                "keep_state",  "cache_salt",
                                "tokens",      "content",
                                "to",          "previous_response_id",
                                "model",       "instructions",
                                "dimensions",  "encoding_format",
                                "store",       "background"};
  int skipped = 0;  // of the combinations, where each takes long
  beside_a_stream([&] {
    for (const char* const path : kPosts) {
      for (const char* const field : fields) {
        for (const Json& value : values) {
          if (kSanitized && skipped++ % 8 != 0) continue;
          Json body = {{"prompt", "a"},  {"input", "a"},    {"content", "a"},
                       {"tokens", {65}}, {"max_tokens", 1}, {"max_output_tokens", 1}};
          body["messages"] = {{{"role", "user"}, {"content", "a"}}};
          body[field] = value;
          const int status = ask("POST", path, body.dump()).status;
          EXPECT_TRUE(status == 200 || status == 400 || status == 404) << status << " " << path << " " << body;
        }
      }
    }
  });
}

/// What a server and a proxy before it may understand differently. A message that were taken would be answered 200, and
/// so would the request that is hidden after it.
TEST_F(Hostile, AMessageWithTwoMeaningsIsRefused) {
  start();
  const std::string hidden = "GET /v1/states HTTP/1.1\r\nHost: localhost\r\n\r\n", body = "{\"content\": \"AB\"}";
  const std::string first = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\n", length = "Content-Length: 17\r\n";
  const std::string coding = "Transfer-Encoding: chunked\r\n";
  const std::string plain = "\r\n" + body + hidden, chunks = "\r\n11\r\n" + body + "\r\n0\r\n\r\n" + hidden;
  const Lines messages = {
      first + length + coding + chunks,
      first + coding + length + chunks,
      first + length + length + plain,
      first + length + "Content-Length: 60\r\n" + plain,
      first + length + "content-length: 17\r\n" + plain,
      first + "Content-Length: 17, 17\r\n" + plain,
      first + "Content-Length: +17\r\n" + plain,
      first + "Content-Length: 0x11\r\n" + plain,
      first + "Content-Length: 1 7\r\n" + plain,
      first + "Content-Length : 17\r\n" + plain,
      first + "Content-Length: \r\n\r\n" + hidden,
      first + "Transfer-Encoding: chunked, identity\r\n\r\n" + hidden,
      first + "Transfer-Encoding: identity\r\n" + plain,
      first + "Transfer-Encoding: gzip, chunked\r\n" + chunks,
      first + "Transfer-Encoding: xchunked\r\n\r\n" + hidden,
      first + "Transfer-Encoding: \"chunked\"\r\n\r\n" + hidden,
      first + coding + "Transfer-Encoding: identity\r\n" + chunks,
      first + "Transfer-Encoding : chunked\r\n" + chunks,
      first + "Transfer-Encoding:\vchunked\r\n\r\n" + hidden,
      first + coding + "\r\n0x11\r\n" + body + "\r\n0\r\n\r\n" + hidden,
      first + coding + "\r\n11\r\n" + body + "0\r\n\r\n" + hidden,
      first + coding + "\r\nffffffffffffffff11\r\n" + body + "\r\n0\r\n\r\n" + hidden,
      "POST /tokenize HTTP/1.0\r\nHost: localhost\r\nConnection: keep-alive\r\n" + coding + chunks,
      "POST /tokenize HTTP/1.1\nHost: localhost\n" + length + "\n" + body + hidden,
      first + "X: a\n" + length + plain,
      first + "X: a" + std::string(1, '\0') + "b\r\n" + length + plain,
      "POST /tokenize HTTP/3.7\r\nHost: localhost\r\n" + length + plain,
      "POST  /tokenize HTTP/1.1\r\nHost: localhost\r\n" + length + plain,
  };
  beside_a_stream([&] {
    for (const std::string& message : messages) {
      Client client(server_->port());
      client.send(message);
      EXPECT_EQ(client.answer().status, 400) << message;
      EXPECT_EQ(client.answer().status, 0) << "what follows is not a request: " << message;
    }
    for (const std::string& message : {first + length + plain, first + coding + chunks}) {
      Client client(server_->port());
      client.send(message);
      EXPECT_EQ(client.answer().status, 200);
      EXPECT_EQ(client.answer().status, 200);
    }
  });
}

TEST_F(Hostile, ADeclaredBodyTakesNoMemory) {
  start({}, [](HttpOptions& http) { http.body_seconds = 0.5; });
  beside_a_stream([&] {
    Client post(server_->port());
    post.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n{\"prompt\"");
    EXPECT_EQ(post.answer().status, 413);
    Client more(server_->port());
    more.send("PUT /v1/states HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741825\r\n\r\n");
    EXPECT_EQ(more.answer().status, 413);
    // Many that are allowed, and never come: they are given up.
    std::vector<std::unique_ptr<Client>> many;
    for (int i = 0; i < (kSanitized ? 4 : 64); ++i) {  // sanitizers fill what is reserved
      many.push_back(std::make_unique<Client>(server_->port()));
      many.back()->send("PUT /v1/states HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\nabc");
    }
    for (const auto& client : many) EXPECT_EQ(client->answer().status, 408);
  });
}

TEST_F(Hostile, AReaderOfAByteASecondIsCutOffAlone) {
  constexpr int64_t kTokens = 1 << 20;  // far from done when it is cut off
  start([](ServiceOptions& options) { options.limits.max_tokens = kTokens; },
        [](HttpOptions& http) { http.write_seconds = 2; });
  beside_a_stream([&] {
    Client slow(server_->port(), 4096);
    const Json body = {{"prompt", "a"},  {"max_tokens", kTokens}, {"n", 4},
                       {"logprobs", 20}, {"ignore_eos", true},    {"stream", true}};
    slow.ask("POST", "/v1/completions", body.dump());
    EXPECT_EQ(slow.receive(30000, 1).size(), 1u);
    const std::string cut_off = "finished_reason=\"abort\"} 4";
    EXPECT_TRUE(comes_true([&] {
      slow.receive(1000, 1);
      std::this_thread::sleep_for(std::chrono::seconds(1));
      return ask("GET", "/metrics").body.find(cut_off) != std::string::npos;
    })) << "it is still served";
  });
}

TEST_F(Hostile, ManyThatLeaveLeaveNothingBehind) {
  start([](ServiceOptions& options) {
    options.engine.parallel = 4;
    options.engine.tick_ms = 0.01;  // prompts are read a piece at a time, so that clients leave within them
  });
  Rng rng(3, 1);
  beside_a_stream([&] {
    std::vector<std::unique_ptr<Client>> open;
    for (int i = 0; i < times(60); ++i) {
      open.push_back(std::make_unique<Client>(server_->port()));
      const Json body = {{"prompt", std::string(rng.bits() % 2000, 'x')},
                         {"max_tokens", 4096},
                         {"n", rng.bits() % 4 == 0 ? 3 : 1},
                         {"ignore_eos", true},
                         {"stream", rng.bits() % 2 == 0}};
      const std::string text = body.dump();
      if (rng.bits() % 8 == 0) {  // within the request
        open.back()->send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n" + text);
      } else {
        open.back()->ask("POST", "/v1/completions", text);
      }
      if (rng.bits() % 2 == 0) open.back()->receive(static_cast<int>(rng.bits() % 20));
      if (open.size() > 8 || rng.bits() % 3 == 0) open.erase(open.begin() + rng.bits() % open.size());
    }
    open.clear();
  });
  const auto connections = std::make_shared<std::atomic<size_t>>(1);  // what is posted last may run after this test
  EXPECT_TRUE(comes_true([&] {
    server_->post([this, connections] { *connections = server_->connections(); });
    return *connections == 0;
  }));
}

TEST_F(Hostile, TooManyAreToldToComeBack) {
  constexpr int kParallel = 2, kQueue = 6;
  start([](ServiceOptions& options) {
    options.engine.parallel = kParallel;
    options.engine.queue = kQueue;
  });
  const std::string expected = in_json(alone("crowd", 200, 4));
  std::atomic<int> answered = 0, refused = 0;
  std::vector<std::unique_ptr<Client>> crowd;
  const Json body = {{"prompt", "crowd"}, {"max_tokens", 200}, {"seed", 4}};
  for (int i = 0; i < 10 * (kParallel + kQueue); ++i) {
    crowd.push_back(std::make_unique<Client>(server_->port()));
    crowd.back()->ask("POST", "/v1/completions", body.dump());
  }
  for (const auto& client : crowd) {
    const Answer answer = client->answer();
    if (answer.status == 200) {
      answered++;
      EXPECT_EQ(Json::parse(answer.body)["choices"][0]["text"], expected);
    } else {
      refused++;
      EXPECT_EQ(answer.status, 429) << answer.body;
      EXPECT_NE(answer.head.find("Retry-After"), answer.head.npos);
    }
  }
  EXPECT_GE(answered, kParallel + kQueue - 1);
  EXPECT_GT(refused, 0);
  expect_nothing_runs();
  EXPECT_EQ(post("/v1/completions", body)["choices"][0]["text"], expected);
}

}  // namespace
}  // namespace carousel::serve
