// SPDX-License-Identifier: Apache-2.0
// HTTP as clients speak it: well, badly, slowly, and not to the end.
#include "carousel/serve/http.h"

#include <atomic>

#include "carousel/core/thread.h"
#include "tests/comes_true.h"
#include "tests/serve/client.h"

namespace carousel::serve {
namespace {

class Http : public testing::Test {
 protected:
  static HttpOptions options() {
    HttpOptions out;
    out.port = 0;
    out.body_bytes = 1000;
    out.upload_bytes = 2000;
    out.header_seconds = 1;
    out.body_seconds = 1;
    out.ping_seconds = 0.2;
    out.drain_seconds = 0.5;
    out.unread_bytes = 4 << 20;
    out.write_seconds = 3600;  // what is cut off is not cut off by this
    return out;
  }
  Http()
      : server_(options(), [this](const std::shared_ptr<Call>& call) { handle(call); }),
        thread_([this] { server_.run(); }) {}
  ~Http() override {
    server_.stop();
    thread_.join();
  }

  void handle(const std::shared_ptr<Call>& call) {
    calls_++;
    const std::string& path = call->request().path;
    if (path == "/echo") return call->answer(200, call->request().body, "text/plain");
    if (path == "/events") {
      call->begin_events();
      for (const char* const text : {"one", "two"}) call->event(std::string_view(text));
      return call->end();
    }
    call->when_gone([this] { gone_++; });
    kept_ = call;
    if (path == "/flood") {
      call->begin_events();
      const std::string piece(1 << 20, 'x');
      for (int i = 0; i < 64; ++i) call->event(std::string_view(piece));
    } else if (path == "/large") {  // more at once than a client may leave unread
      call->begin_events();
      call->event(std::string_view(std::string(8 << 20, 'x')));
      call->end();
    } else if (path == "/open") {
      call->begin_events();
    }  // "/wait": nothing yet
  }

  std::atomic<int> calls_{0}, gone_{0};
  std::shared_ptr<Call> kept_;
  HttpServer server_;
  Thread thread_;
};

TEST_F(Http, AnswersOneAfterTheOtherOnAConnection) {
  Client client(server_.port());
  for (const char* const body : {"first", "", "third"}) {
    client.ask("POST", "/echo", body);
    const Answer answer = client.answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, body);
  }
  client.ask("GET", "/events");
  const Answer events = client.answer();
  EXPECT_EQ(events.body, "data: one\n\ndata: two\n\n");
  EXPECT_NE(events.head.find("text/event-stream"), std::string::npos);
  client.ask("POST", "/echo", "x", "Expect: 100-continue\r\n");
  EXPECT_EQ(client.answer().status, 100);
  EXPECT_EQ(client.answer().body, "x");
}

TEST_F(Http, TwoRequestsInOnePieceAreTwo) {
  Client client(server_.port());
  const std::string one = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n";
  client.send(one + "a" + one + "b");
  EXPECT_EQ(client.answer().body, "a");
  EXPECT_EQ(client.answer().body, "b");
}

TEST_F(Http, HostileMessagesAreRefused) {
  struct Case {
    std::string bytes;
    int status;
  };
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\n";
  const Case cases[] = {
      {post + "Content-Length: 5000\r\n\r\n", 413},
      {"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1500\r\n\r\n" + std::string(1500, 'x'), 200},
      {post + "Transfer-Encoding: chunked\r\n\r\nfff\r\n" + std::string(4095, 'x') + "\r\n0\r\n\r\n", 413},
      {post + "X: " + std::string(40000, 'x') + "\r\n\r\n", 431},
      {post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400},
      {post + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {post + "Transfer-Encoding: chunked\r\n\r\n-2\r\n\r\n", 400},
      {post + "Content-Length: -1\r\n\r\n", 400},
      {post + "Content-Length: 99999999999999999999999\r\n\r\n", 400},
      {std::string("GET /echo\0 HTTP/1.1\r\n\r\n", 23), 400},
      {"nonsense\r\n\r\n", 400},
  };
  for (const Case& one : cases) {
    Client client(server_.port());
    client.send(one.bytes);
    EXPECT_EQ(client.answer().status, one.status) << one.bytes.substr(0, 80);
  }
  Client after(server_.port());
  after.ask("POST", "/echo", "still here");
  EXPECT_EQ(after.answer().body, "still here");
}

TEST_F(Http, AMessageThatDoesNotArriveIsGivenUp) {
  Client half(server_.port()), silent(server_.port());
  half.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(half.answer().status, 408);
  EXPECT_EQ(silent.answer().status, 0);  // closed without a word
}

TEST_F(Http, AClientThatLeavesIsNoticed) {
  for (const char* const path : {"/wait", "/open"}) {
    const int before = gone_, calls = calls_;
    Client client(server_.port());
    client.ask("GET", path);
    ASSERT_TRUE(comes_true([&] { return calls_ > calls; }));
    client.close();
    EXPECT_TRUE(comes_true([&] { return gone_ == before + 1; })) << path;
  }
}

TEST_F(Http, AClientThatReadsTooLittleIsCutOff) {
  Client client(server_.port());
  client.ask("GET", "/flood");
  EXPECT_TRUE(comes_true([&] { return gone_ == 1; }));
}

TEST_F(Http, AClientThatReadsGetsALargeEventWhole) {
  Client client(server_.port());
  client.ask("GET", "/large");
  EXPECT_EQ(client.answer().body, "data: " + std::string(8 << 20, 'x') + "\n\n");
}

TEST_F(Http, TheEndOfAConnectionIsThatOfEventsInHttp10) {
  Client client(server_.port());
  client.send("GET /events HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n");
  std::string all;
  for (std::string more = client.receive(); !more.empty(); more = client.receive()) all += more;
  EXPECT_TRUE(all.ends_with("\r\n\r\ndata: one\n\ndata: two\n\n")) << all;
}

TEST_F(Http, ABodyThatIsTooLongIsToldItsLimit) {
  const std::pair<const char*, const char*> cases[] = {{"POST", " 1000 bytes"}, {"PUT", " 2000 bytes"}};
  for (const auto& [method, limit] : cases) {
    Client client(server_.port());
    client.send(std::string(method) + " /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n");
    const Answer answer = client.answer();
    EXPECT_EQ(answer.status, 413);
    EXPECT_NE(answer.body.find(limit), answer.body.npos) << answer.body;
  }
}

TEST_F(Http, SilenceIsFilledWithPings) {
  Client client(server_.port());
  client.ask("GET", "/open");
  std::string all;
  while (all.find(": ping\n\n") == all.npos) {
    const std::string more = client.receive();
    ASSERT_FALSE(more.empty());
    all += more;
  }
}

TEST_F(Http, StoppingEndsWhatIsUnderWayWithAnError) {
  Client waiting(server_.port()), streaming(server_.port()), idle(server_.port());
  waiting.ask("GET", "/wait");
  ASSERT_TRUE(comes_true([&] { return calls_ == 1; }));
  streaming.ask("GET", "/open");
  ASSERT_TRUE(comes_true([&] { return calls_ == 2; }));
  server_.stop();
  EXPECT_EQ(idle.receive(), "");
  EXPECT_EQ(waiting.answer().status, 503);
  EXPECT_NE(streaming.answer().body.find("shutting down"), std::string::npos);
  EXPECT_TRUE(comes_true([&] { return gone_ == 2; }));
}

}  // namespace
}  // namespace carousel::serve
