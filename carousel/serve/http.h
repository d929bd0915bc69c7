// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 on one thread: connections are coroutines of Boost.Asio, messages are read and written by Boost.Beast.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "carousel/serve/call.h"

namespace carousel::serve {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8080;                   // 0: any that is free
  std::vector<std::string> origins;  // of pages that may read answers; "*": all
  size_t connections = 4096;
  size_t body_bytes = size_t{8} << 20;    // of POST
  size_t upload_bytes = size_t{1} << 30;  // of PUT
  uint32_t header_bytes = 16 << 10;
  double header_seconds = 10, body_seconds = 60;  // to arrive whole
  double write_seconds = 30;                      // to take what was written
  double ping_seconds = 15;                       // of silence within events
  double call_seconds = 600;                      // from a request to the end of its answer
  double drain_seconds = 30;                      // for answers under way once stop() is called
  size_t unread_bytes = 256 << 10;                // of events that a client may leave unread
  double unread_seconds = 1;                      // for each 64 KiB of them where there are more
};

class HttpServer {
 public:
  using Handler = std::function<void(std::shared_ptr<Call>)>;   // must not throw
  using Screen = std::function<void(const HttpRequest& head)>;  // throws HttpError alone
  /// Listens. `screen` is asked before the body of a request is read, and may refuse it. Throws Error(kIo) naming the
  /// address.
  HttpServer(const HttpOptions& options, Handler handler, Screen screen = {});
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  size_t connections() const;
  /// Serves until stop(), then until the answers under way have ended or their time is up.
  void run();
  /// Runs `then` on the thread of run(). Any thread may call it.
  void post(std::function<void()> then);
  /// Any thread may call it.
  void stop();

  struct Impl;  // http.cc's own

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace carousel::serve
