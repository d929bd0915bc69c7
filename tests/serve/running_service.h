// SPDX-License-Identifier: Apache-2.0
// A server of the small model on loopback, and what tests ask it.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/thread.h"
#include "carousel/serve/http.h"
#include "carousel/serve/service.h"
#include "tests/scratch.h"
#include "tests/serve/client.h"
#include "tests/serve/small_model.h"

namespace carousel::serve {

class RunningService {
 public:
  void start(const std::function<void(ServiceOptions&)>& change = {},
             const std::function<void(HttpOptions&)>& change_http = {}) {
    ServiceOptions options;
    options.path = scratch_ / "model";
    options.name = "small";
    options.chat_template = "chatml";
    options.scratch = scratch_ / "";
    options.state_bytes = size_t{64} << 20;
    options.engine.cache_bytes = size_t{64} << 20;
    if (change) change(options);
    HttpOptions http;
    http.port = 0;
    http.drain_seconds = 0.1;
    if (change_http) change_http(http);
    server_.emplace(
        http, [this](const std::shared_ptr<Call>& call) { service_->handle(call); },
        [this](const HttpRequest& head) { service_->screen(head); });
    service_.emplace(small_.model, small_.stream, options,
                     [this](std::function<void()> then) { server_->post(std::move(then)); });
    thread_ = std::make_unique<Thread>([this] { server_->run(); });
  }
  void stop() {
    if (!server_) return;
    server_->stop();
    thread_->join();
    service_.reset();
    server_.reset();
  }
  ~RunningService() { stop(); }

  Answer ask(const std::string& method, const std::string& path, const std::string& body = "",
             const std::string& headers = "") {
    Client client(server_->port());
    client.ask(method, path, body, headers);
    return client.answer();
  }
  Json post(const std::string& path, const Json& body, int status = 200) {
    const Answer answer = ask("POST", path, body.dump());
    EXPECT_EQ(answer.status, status) << answer.body;
    return Json::parse(answer.body);
  }
  static std::vector<Json> events(const Answer& answer) {
    std::vector<Json> out;
    for (size_t at = 0; (at = answer.body.find("data: ", at)) != answer.body.npos; at += 6) {
      const std::string line = answer.body.substr(at + 6, answer.body.find('\n', at) - at - 6);
      if (line != "[DONE]") out.push_back(Json::parse(line));
    }
    return out;
  }
  std::string alone(const std::string& prompt, int64_t tokens, uint64_t seed) const {
    generate::Request request;
    request.prompt = small_.model.text().encode(prompt);
    request.max_tokens = tokens;
    request.seed = seed;
    return small_.alone(request)[0].text;
  }

  const Scratch scratch_;
  SmallModel small_;
  std::optional<HttpServer> server_;
  std::optional<Service> service_;
  std::unique_ptr<Thread> thread_;
};

class ServiceTest : public testing::Test, protected RunningService {};

/// The model's bytes are rarely UTF-8; JSON says U+FFFD for what is none.
inline std::string in_json(const std::string& text) {
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace carousel::serve
