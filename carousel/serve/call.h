// SPDX-License-Identifier: Apache-2.0
// One HTTP request and its answer, as endpoints see them. An endpoint answers at once, later, or piece by piece; the
// connection (connection.cc) takes what is there. All of it happens on the io thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "carousel/core/json.h"

namespace carousel::serve {

/// An answer that is an error. `code` is one of OpenAI's, as is the type that follows from the
/// status; `param` names the field.
struct HttpError {
  int status = 400;
  std::string message;
  std::string param;  // empty: null
  std::string code;   // empty: null
  std::vector<std::pair<std::string, std::string>> headers;

  /// {"error": {"message", "type", "param", "code"}}
  Json json() const;
};

struct HttpRequest {
  std::string method;
  std::string path;                            // without the query
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;

  std::string header(const std::string& name) const;  // empty: absent
};

class Call {
 public:
  explicit Call(HttpRequest request) : request_(std::move(request)) {}

  const HttpRequest& request() const { return request_; }

  /// Adds a header to the answer; before it begins.
  void header(std::string name, std::string value) { headers_.emplace_back(std::move(name), std::move(value)); }
  /// The whole answer.
  void answer(int status, std::string body, std::string type = "application/json");
  void answer(const Json& body, int status = 200) { answer(status, body.dump(-1, ' ', false, kReplace) + "\n"); }
  void fail(const HttpError& error);
  /// An answer in server-sent events: each is one "data:" line, after an "event:" line where it has a name.
  void begin_events();
  void event(std::string_view data, std::string_view name = "");
  void event(const Json& data, std::string_view name = "") {
    event(std::string_view(data.dump(-1, ' ', false, kReplace)), name);
  }
  /// Ends the events.
  void end();
  bool begun() const { return status_ != 0; }
  bool ended() const { return ended_; }

  /// Sets what runs once when the client is gone before the answer ended.
  void when_gone(std::function<void()> then) { when_gone_ = std::move(then); }
  /// Sets what runs once when the connection is done with the call.
  void when_left(std::function<void()> then) { when_left_ = std::move(then); }

  // The connection's side.
  int status() const { return status_; }  // 0: not begun
  bool streams() const { return streams_; }
  const std::string& type() const { return type_; }
  const std::vector<std::pair<std::string, std::string>>& headers() const { return headers_; }
  size_t unread() const { return unread_.size(); }  // bytes that take() gives
  std::string take() { return std::exchange(unread_, {}); }
  void on_change(std::function<void()> wake) { wake_ = std::move(wake); }
  void leave();
  /// Ends the answer with an error, and what the endpoint has begun.
  void break_off(const HttpError& error);

 private:
  static constexpr auto kReplace = Json::error_handler_t::replace;
  void changed();

  HttpRequest request_;
  int status_ = 0;
  bool streams_ = false, ended_ = false;
  std::string type_;
  std::vector<std::pair<std::string, std::string>> headers_;
  std::string unread_;  // what the connection has not taken
  std::function<void()> when_gone_, when_left_, wake_;
};

}  // namespace carousel::serve
