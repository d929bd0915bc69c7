// SPDX-License-Identifier: Apache-2.0
// Connections: read a request, hand it to the endpoints, write what they answer, watch for a client that leaves.
//
// 1. Everything here runs on the thread of run(), but for post() and stop(). So nothing is locked.
// 2. A connection is one coroutine, which owns its socket. While an answer is awaited a second one waits for the socket
//    to become readable; it ends when the answer has ended (cancel) or the client has left.
// 3. A Call is left (Call::leave) exactly once: after its answer is written, or when the client is gone, too slow or
//    out of time. Endpoints hear of it and cancel what they began.
#include "carousel/serve/http.h"

#include <utility>  // before Asio 1.74, which uses std::exchange
// (a line apart, so that the order stays)
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>

#include <chrono>
#include <set>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::system::error_code;
using net::use_awaitable;
using net::ip::tcp;
template <class T>
using Awaitable = net::awaitable<T>;
using Clock = std::chrono::steady_clock;

Clock::duration seconds(double count) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return out;
}

HttpRequest request_of(const http::request<http::string_body>& message) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  request.path = target.substr(0, target.find('?'));
  for (const auto& field : message) {
    request.headers.insert_or_assign(lower({field.name_string().data(), field.name_string().size()}),
                                     std::string(field.value()));
  }
  request.body = message.body();
  return request;
}

/// What is wrong with a message that cannot be read; status 0: nobody is there to be told.
HttpError read_error(const error_code& error, const HttpOptions& options, bool began) {
  HttpError out;
  out.status = 400;
  if (error == http::error::end_of_stream || error == net::error::operation_aborted ||
      error == net::error::connection_reset || error == net::error::eof || error == http::error::partial_message) {
    out.status = 0;
  } else if (error == beast::error::timeout) {
    out.status = began ? 408 : 0;
    out.message = "request: it did not arrive in time";
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    out.status = 431;
    out.message = fmt::format("request: the header is longer than {} bytes", options.header_bytes);
  } else if (error == http::error::body_limit) {
    out.status = 413;
    out.message = fmt::format("request: the body is longer than {} bytes", options.body_bytes);
  } else {
    out.message = "request: not HTTP/1.1: " + error.message();
  }
  return out;
}

}  // namespace

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  Impl(const HttpOptions& o, Handler h) : options(o), handler(std::move(h)), acceptor(io) {}

  HttpOptions options;
  Handler handler;
  net::io_context io{1};
  tcp::acceptor acceptor;
  std::set<class Connection*> open;
  bool stopping = false;

  Awaitable<void> accept();
  Awaitable<void> drain();
  void begin_stop();
};

/// One connection. Its coroutine holds it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(HttpServer::Impl& server, tcp::socket socket)
      : server_(server),
        options_(server.options),
        socket_(std::move(socket)),
        wake_(socket_.get_executor()),
        deadline_(socket_.get_executor()) {}

  Awaitable<void> run();
  void close();
  bool idle() const { return call_ == nullptr; }
  void abort(const HttpError& error) {
    if (call_ != nullptr) call_->abort(error);
  }

 private:
  using Parser = http::request_parser<http::string_body>;
  Awaitable<bool> serve_one();
  Awaitable<bool> read(Parser& parser, HttpError& wrong);
  Awaitable<bool> write_answer(bool keep);
  Awaitable<bool> write_events(bool keep, bool chunked);
  Awaitable<void> write(std::string bytes, error_code& error);
  Awaitable<void> watch();
  Awaitable<void> linger();
  void changed();
  void begin_deadline(double time);
  void end_deadline();
  Awaitable<bool> wait_for_change(double limit);
  http::response<http::string_body> head(bool keep) const;

  HttpServer::Impl& server_;
  const HttpOptions& options_;
  tcp::socket socket_;
  beast::flat_buffer buffer_;
  net::steady_timer wake_;
  net::steady_timer deadline_;  // of what the socket does
  uint64_t deadlines_ = 0;      // begun and ended: one that is over does nothing
  bool late_ = false;           // it came
  std::shared_ptr<Call> call_;  // the request under way
  unsigned version_ = 11;
  bool gone_ = false;
};

Awaitable<void> Connection::run() {
  server_.open.insert(this);
  for (bool more = true; more && !server_.stopping;) more = co_await serve_one();
  close();
  server_.open.erase(this);
}

void Connection::close() {
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

Awaitable<bool> Connection::read(Parser& parser, HttpError& wrong) {
  error_code error;
  parser.header_limit(options_.header_bytes);
  parser.body_limit(options_.upload_bytes);
  begin_deadline(options_.header_seconds);
  co_await http::async_read_header(socket_, buffer_, parser, net::redirect_error(use_awaitable, error));
  if (!error) {
    const auto& head = parser.get();
    const size_t limit = head.method() == http::verb::put ? options_.upload_bytes : options_.body_bytes;
    parser.body_limit(limit);
    if (parser.content_length().value_or(0) > limit) error = http::error::body_limit;
    if (head.count(http::field::content_length) > 1 ||
        (head.count(http::field::transfer_encoding) > 0 && head.count(http::field::content_length) > 0)) {
      wrong.message = "request: more than one length is given";
      co_return false;
    }
    if (!error && beast::iequals(head[http::field::expect], "100-continue") && !parser.is_done()) {
      co_await write("HTTP/1.1 100 Continue\r\n\r\n", error);
    }
    begin_deadline(options_.body_seconds);
    if (!error) co_await http::async_read(socket_, buffer_, parser, net::redirect_error(use_awaitable, error));
  }
  end_deadline();
  if (!error) co_return true;
  if (late_) error = beast::error::timeout;
  wrong = read_error(error, options_, buffer_.size() > 0 || parser.got_some());
  co_return false;
}

/// One request and its answer; true: another one may follow.
Awaitable<bool> Connection::serve_one() {
  Parser parser;
  HttpError wrong;
  const bool whole = co_await read(parser, wrong);
  if (!whole && wrong.status == 0) co_return false;
  call_ = std::make_shared<Call>(whole ? request_of(parser.get()) : HttpRequest());
  version_ = whole ? parser.get().version() : 11;
  const bool keep = whole && parser.get().keep_alive();
  call_->on_change([this] { changed(); });
  gone_ = false;
  if (whole) {
    server_.handler(call_);
  } else {
    call_->fail(wrong);
  }
  const bool watches = !call_->ended();
  if (watches) {
    net::co_spawn(
        socket_.get_executor(), [self = shared_from_this()] { return self->watch(); }, net::detached);
  }
  const bool written = co_await write_answer(keep);
  if (!whole) co_await linger();
  error_code ignored;
  if (watches && !gone_) socket_.cancel(ignored);  // the watch
  call_->leave();
  call_.reset();
  co_return written&& keep;
}

/// What the socket does ends with operation_aborted after `time` seconds, unless the deadline ends before.
void Connection::begin_deadline(double time) {
  late_ = false;
  deadline_.expires_after(seconds(time));
  deadline_.async_wait([self = shared_from_this(), number = ++deadlines_](const error_code& error) {
    if (error || number != self->deadlines_) return;
    self->late_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

void Connection::end_deadline() {
  deadlines_++;
  deadline_.cancel();
}

/// There is more to write. A client that leaves too much of it unread is cut off.
void Connection::changed() {
  if (call_->streams() && call_->unread() > options_.unread_bytes) {
    gone_ = true;
    close();
  }
  wake_.cancel();
}

/// Reads on for a moment after a message that was not read whole: closing at once would take the answer back.
Awaitable<void> Connection::linger() {
  constexpr size_t kMost = 1 << 20;
  error_code error;
  socket_.shutdown(tcp::socket::shutdown_send, error);
  std::string rest(4096, '\0');
  begin_deadline(1);
  for (size_t count = 0; !error && count < kMost;) {
    count += co_await socket_.async_read_some(net::buffer(rest), net::redirect_error(use_awaitable, error));
  }
  end_deadline();
}

/// Waits until the client sends or leaves. One that sends more while it waits for an answer is not watched further.
Awaitable<void> Connection::watch() {
  const std::shared_ptr<Call> call = call_;
  error_code error;
  co_await socket_.async_wait(tcp::socket::wait_read, net::redirect_error(use_awaitable, error));
  if (error || call != call_) co_return;
  char byte = 0;
  socket_.non_blocking(true, error);
  const size_t count = socket_.receive(net::buffer(&byte, 1), tcp::socket::message_peek, error);
  if (error == net::error::would_block || (!error && count > 0)) co_return;
  gone_ = true;
  wake_.cancel();
}

/// Waits until the call changes or the client has left; false: neither came within the limit.
Awaitable<bool> Connection::wait_for_change(double limit) {
  error_code error;
  wake_.expires_after(seconds(limit));
  co_await wake_.async_wait(net::redirect_error(use_awaitable, error));
  co_return error == net::error::operation_aborted;
}

http::response<http::string_body> Connection::head(bool keep) const {
  http::response<http::string_body> out(static_cast<http::status>(call_->status()), version_);
  out.set(http::field::content_type, call_->type());
  for (const auto& [name, value] : call_->headers()) out.insert(name, value);
  const std::string origin = call_->request().header("origin");
  for (const std::string& allowed : options_.origins) {
    if (allowed == "*" || allowed == origin) {
      out.set(http::field::access_control_allow_origin, allowed == "*" ? "*" : origin);
      out.set(http::field::access_control_allow_headers, "authorization, content-type, x-api-key");
      out.set(http::field::access_control_allow_methods, "GET, POST, PUT, DELETE");
      break;
    }
  }
  out.keep_alive(keep);
  return out;
}

Awaitable<void> Connection::write(std::string bytes, error_code& error) {
  begin_deadline(options_.write_seconds);
  co_await net::async_write(socket_, net::buffer(bytes), net::redirect_error(use_awaitable, error));
  end_deadline();
}

/// True: the whole answer was written.
Awaitable<bool> Connection::write_answer(bool keep) {
  while (!call_->begun() && !gone_) co_await wait_for_change(3600);
  if (gone_) co_return false;
  if (call_->streams()) co_return co_await write_events(keep, version_ >= 11);
  http::response<http::string_body> message = head(keep);
  message.body() = call_->take();
  message.prepare_payload();
  if (call_->request().method == "HEAD") message.body().clear();
  error_code error;
  begin_deadline(options_.write_seconds);
  co_await http::async_write(socket_, message, net::redirect_error(use_awaitable, error));
  end_deadline();
  co_return !error;
}

Awaitable<bool> Connection::write_events(bool keep, bool chunked) {
  http::response<http::string_body> message = head(keep && chunked);
  message.set(http::field::cache_control, "no-store");
  if (chunked) message.chunked(true);
  http::response_serializer<http::string_body> serializer(message);
  error_code error;
  begin_deadline(options_.write_seconds);
  co_await http::async_write_header(socket_, serializer, net::redirect_error(use_awaitable, error));
  const auto framed = [&](const std::string& bytes) {
    return chunked ? fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes) : bytes;
  };
  while (!error && !gone_) {
    if (call_->unread() > 0) {
      co_await write(framed(call_->take()), error);
    } else if (call_->ended()) {
      if (chunked) co_await write("0\r\n\r\n", error);
      co_return !error;
    } else if (!co_await wait_for_change(options_.ping_seconds)) {
      co_await write(framed(": ping\n\n"), error);
    }
  }
  co_return false;
}

Awaitable<void> HttpServer::Impl::accept() {
  for (;;) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(net::redirect_error(use_awaitable, error));
    if (error == net::error::operation_aborted || !acceptor.is_open()) co_return;
    if (error) {  // no descriptor is free, say
      net::steady_timer pause(io, std::chrono::milliseconds(20));
      co_await pause.async_wait(net::redirect_error(use_awaitable, error));
      continue;
    }
    if (open.size() >= options.connections) continue;  // closes it
    socket.set_option(tcp::no_delay(true), error);
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    net::co_spawn(
        io, [connection] { return connection->run(); }, net::detached);
  }
}

/// No more connections; those without a request end, the others when they are answered or the time is up.
void HttpServer::Impl::begin_stop() {
  if (stopping) return;
  stopping = true;
  error_code ignored;
  acceptor.close(ignored);
  for (Connection* const connection : open) {
    if (connection->idle()) connection->close();
  }
  net::co_spawn(
      io, [self = shared_from_this()] { return self->drain(); }, net::detached);
}

/// Ends run() once every connection has: those whose time is up with an error.
Awaitable<void> HttpServer::Impl::drain() {
  constexpr double kPoll = 0.02, kGrace = 1;
  net::steady_timer timer(io);
  double waited = 0;
  for (bool told = false; !open.empty() && waited < options.drain_seconds + kGrace; waited += kPoll) {
    if (!told && waited >= options.drain_seconds) {
      told = true;
      for (Connection* const connection : open) connection->abort({503, "the server is shutting down", "", "", {}});
    }
    timer.expires_after(seconds(kPoll));
    co_await timer.async_wait(use_awaitable);
  }
  io.stop();
}

HttpServer::HttpServer(const HttpOptions& options, Handler handler)
    : impl_(std::make_shared<Impl>(options, std::move(handler))) {
  const std::string where = fmt::format("{}:{}", options.host, options.port);
  error_code error;
  const auto address = net::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, error);
  if (error) carousel::fail(ErrorKind::kIo, "{}: not an address, expected one like 127.0.0.1 or ::1", options.host);
  const tcp::endpoint endpoint(address, static_cast<uint16_t>(options.port));
  impl_->acceptor.open(endpoint.protocol(), error);
  if (!error) impl_->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) impl_->acceptor.bind(endpoint, error);
  if (!error) impl_->acceptor.listen(net::socket_base::max_listen_connections, error);
  if (error) carousel::fail(ErrorKind::kIo, "{}: cannot listen: {}", where, error.message());
}

HttpServer::~HttpServer() = default;

int HttpServer::port() const { return impl_->acceptor.local_endpoint().port(); }
size_t HttpServer::connections() const { return impl_->open.size(); }

void HttpServer::run() {
  net::co_spawn(
      impl_->io, [impl = impl_] { return impl->accept(); }, net::detached);
  const auto work = net::make_work_guard(impl_->io);
  impl_->io.run();
}

void HttpServer::post(std::function<void()> then) { net::post(impl_->io, std::move(then)); }
void HttpServer::stop() {
  net::post(impl_->io, [impl = impl_] { impl->begin_stop(); });
}

}  // namespace carousel::serve
