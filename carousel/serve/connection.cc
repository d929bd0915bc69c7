// SPDX-License-Identifier: Apache-2.0
// A connection is a coroutine of the io thread, so nothing here is locked.
//
// 1. A connection owns its socket. While an answer is awaited a second coroutine waits for the socket to become
//    readable; it ends when the answer has ended (cancel) or the client has left.
// 2. A Call is left (Call::leave) exactly once: after its answer is written, or when the client is gone, too slow or
//    out of time. Endpoints hear of it and cancel what they began.
// 3. A call that is awaited ends within call_seconds: limit_ breaks it off. It holds the call weakly, so it does
//    nothing to the next one.
// 4. Between begin_deadline() and end_deadline() what the socket does ends in time; late_ says that it was cut short.
#include "carousel/serve/connection.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace carousel::serve {
namespace {

namespace beast = boost::beast;

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

/// Says what is wrong with the length that a message gives itself; empty: nothing. A proxy before this server may
/// understand a doubtful one otherwise, and pass on one client's body as another's request.
std::string doubtful_length(const http::request_header<>& head) {
  const auto codings = head.count(http::field::transfer_encoding), lengths = head.count(http::field::content_length);
  if (codings + lengths > 1) return "request: more than one length is given";
  if (codings > 0 && (head.version() < 11 || !beast::iequals(head[http::field::transfer_encoding], "chunked"))) {
    return "request: Transfer-Encoding is not \"chunked\", expected that or a Content-Length";
  }
  const beast::string_view length = head[http::field::content_length];
  const bool digits = std::all_of(length.begin(), length.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (lengths > 0 && (length.empty() || !digits)) return "request: Content-Length is not a number";
  return "";
}

/// What is wrong with a message that cannot be read; status 0: nobody is there to be told.
HttpError read_error(const error_code& error, const HttpOptions& options, size_t body_bytes, bool began) {
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
    out.message = fmt::format("request: the body is longer than {} bytes", body_bytes);
  } else {
    out.message = "request: not HTTP/1.1: " + error.message();
  }
  return out;
}

/// A connection in the set of those that are open, while the object lives.
class Listed {
 public:
  Listed(std::set<Connection*>& open, Connection* connection) : open_(open), connection_(connection) {
    open.insert(connection);
  }
  ~Listed() { open_.erase(connection_); }
  Listed(const Listed&) = delete;
  Listed& operator=(const Listed&) = delete;

 private:
  std::set<Connection*>& open_;
  Connection* const connection_;
};

}  // namespace

Awaitable<void> Connection::run() {
  const Listed listed(server_.open, this);  // also where memory lacks, and a message cannot be read
  for (bool more = true; more && !server_.stopping;) more = co_await serve_one();
  close();
}

void Connection::close() {
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

Awaitable<bool> Connection::read(Parser& parser, HttpError& wrong) {
  error_code error;
  size_t limit = options_.body_bytes;
  parser.header_limit(options_.header_bytes);
  parser.body_limit(UINT64_MAX);  // until the method is known
  begin_deadline(options_.header_seconds);
  co_await http::async_read_header(socket_, buffer_, parser, net::redirect_error(use_awaitable, error));
  if (!error) {
    const auto& head = parser.get();
    if (head.method() == http::verb::put) limit = options_.upload_bytes;
    parser.body_limit(limit);
    if (parser.content_length().value_or(0) > limit) error = http::error::body_limit;
    wrong.message = doubtful_length(head);
    if (!wrong.message.empty() || (!error && !parser.is_done() && refused(parser.get(), wrong))) co_return false;
    if (!error && beast::iequals(head[http::field::expect], "100-continue") && !parser.is_done()) {
      co_await write("HTTP/1.1 100 Continue\r\n\r\n", error);
    }
    begin_deadline(options_.body_seconds);
    if (!error) co_await http::async_read(socket_, buffer_, parser, net::redirect_error(use_awaitable, error));
  }
  end_deadline();
  if (!error) co_return true;
  if (late_) error = beast::error::timeout;
  wrong = read_error(error, options_, limit, buffer_.size() > 0 || parser.got_some());
  co_return false;
}

/// Whether a request is refused before its body is read.
bool Connection::refused(const http::request<http::string_body>& head, HttpError& wrong) const {
  if (!server_.screen) return false;
  try {
    server_.screen(request_of(head));
    return false;
  } catch (const HttpError& error) {
    wrong = error;
    return true;
  }
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
    begin_limit();
    net::co_spawn(
        socket_.get_executor(), [self = shared_from_this()] { return self->watch(); }, net::detached);
  }
  const bool written = co_await write_answer(keep);
  const bool has_end = !call_->streams() || version_ >= 11;  // else the end of the connection is the answer's
  limit_.cancel();
  end_patience();
  if (!whole) co_await linger();
  error_code ignored;
  if (watches && !gone_) socket_.cancel(ignored);  // the watch
  call_->leave();
  call_.reset();
  co_return written&& keep&& has_end;
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

/// An answer that has not ended when its time is up ends with an error.
void Connection::begin_limit() {
  limit_.expires_after(seconds(options_.call_seconds));
  limit_.async_wait([weak = std::weak_ptr(call_), most = options_.call_seconds](const error_code& error) {
    const std::shared_ptr<Call> call = weak.lock();
    if (error || call == nullptr) return;
    call->break_off({503,
                     fmt::format("the request ran for {} s, the most that the server allows", most),
                     "",
                     "timeout",
                     {{"x-should-retry", "false"}}});
  });
}

void Connection::end_deadline() {
  deadlines_++;
  deadline_.cancel();
}

/// There is more to write.
void Connection::changed() {
  watch_unread();
  wake_.cancel();
}

/// A client that leaves too much unread is cut off once it takes no piece of it for a while. One large event is no sign
/// of that.
void Connection::watch_unread() {
  const bool too_much = call_->streams() && unwritten_ + call_->unread() > options_.unread_bytes;
  if (!too_much || impatient_) return;
  impatient_ = true;
  patience_.expires_after(seconds(options_.unread_seconds));
  patience_.async_wait([self = shared_from_this(), call = call_](const error_code& error) {
    if (error || !self->impatient_ || call != self->call_) return;
    self->gone_ = true;
    self->close();
    self->wake_.cancel();
  });
}
void Connection::end_patience() {
  impatient_ = false;
  patience_.cancel();
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
  constexpr size_t kPiece = 64 << 10;
  for (size_t at = 0, count = 0; !error && at < bytes.size(); at += count) {
    unwritten_ = bytes.size() - at;
    count = std::min(unwritten_, kPiece);
    if (call_ != nullptr) watch_unread();
    begin_deadline(options_.write_seconds);
    co_await net::async_write(socket_, net::buffer(bytes.data() + at, count),
                              net::redirect_error(use_awaitable, error));
    end_deadline();
    end_patience();
  }
  unwritten_ = 0;
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

}  // namespace carousel::serve
