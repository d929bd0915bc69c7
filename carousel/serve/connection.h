// SPDX-License-Identifier: Apache-2.0
// One connection of the server: it reads a request, hands it to the endpoints, writes what they answer, and watches for
// a client that leaves. The invariants are numbered in connection.cc.
#pragma once

#include <utility>  // before Asio 1.74, which uses std::exchange
// This comment keeps the formatter from sorting them.
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "carousel/serve/http.h"

namespace carousel::serve {

namespace net = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::use_awaitable;
using net::ip::tcp;
template <class T>
using Awaitable = net::awaitable<T>;

inline std::chrono::steady_clock::duration seconds(double count) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(count));
}

class Connection;
/// What connections share.
struct Connections {
  HttpOptions options;
  HttpServer::Handler handler;
  HttpServer::Screen screen;  // may be empty
  std::set<Connection*> open;
  bool stopping = false;  // no connection reads another request
};

/// One connection. Its coroutine holds it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Connections& server, tcp::socket socket)
      : server_(server),
        options_(server.options),
        socket_(std::move(socket)),
        wake_(socket_.get_executor()),
        deadline_(socket_.get_executor()),
        limit_(socket_.get_executor()),
        patience_(socket_.get_executor()) {}

  Awaitable<void> run();
  void close();
  bool idle() const { return call_ == nullptr; }
  void break_off(const HttpError& error) {
    if (call_ != nullptr) call_->break_off(error);
  }

 private:
  using Parser = http::request_parser<http::string_body>;
  Awaitable<bool> serve_one();
  Awaitable<bool> read(Parser& parser, HttpError& wrong);
  bool refused(const http::request<http::string_body>& head, HttpError& wrong) const;
  Awaitable<bool> write_answer(bool keep);
  Awaitable<bool> write_events(bool keep, bool chunked);
  Awaitable<void> write(std::string bytes, error_code& error);
  Awaitable<void> watch();
  Awaitable<void> linger();
  void changed();
  void begin_limit();
  void watch_unread();
  void end_patience();
  void begin_deadline(double time);
  void end_deadline();
  Awaitable<bool> wait_for_change(double limit);
  http::response<http::string_body> head(bool keep) const;

  Connections& server_;
  const HttpOptions& options_;
  tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  net::steady_timer wake_;
  net::steady_timer deadline_;  // of what the socket does
  net::steady_timer limit_;     // of an answer that is awaited
  net::steady_timer patience_;  // with a client that leaves too much unread
  bool impatient_ = false;      // patience_ runs
  size_t unwritten_ = 0;        // bytes of an event that were taken from the call
  uint64_t deadlines_ = 0;      // begun and ended: one that is over does nothing
  bool late_ = false;           // it came
  std::shared_ptr<Call> call_;  // the request under way
  unsigned version_ = 11;
  bool gone_ = false;
};

}  // namespace carousel::serve
