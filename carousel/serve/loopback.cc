// SPDX-License-Identifier: Apache-2.0
// Callers count the events of a stream by the line breaks before them, which JSON never holds: parsing what is told
// would take the time that is to be measured.
#include "carousel/serve/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

constexpr std::string_view kData = "\ndata: ", kGood = "HTTP/1.1 200";
constexpr size_t kMaxConnections = 1 << 16;

HttpOptions loopback_options() {
  HttpOptions options;
  options.port = 0;
  options.connections = kMaxConnections;
  options.drain_seconds = 0;
  return options;
}

[[noreturn]] void fail_system(const char* what) {
  fail(ErrorKind::kIo, "loopback: cannot {}: {}", what, std::generic_category().message(errno));
}

}  // namespace

Loopback::Loopback(const model::Model& model, const Stream& stream, const ServiceOptions& options) {
  server_ = std::make_unique<HttpServer>(
      loopback_options(), [this](const std::shared_ptr<Call>& call) { service_->handle(call); },
      [this](const HttpRequest& head) { service_->screen(head); });
  service_ = std::make_unique<Service>(model, stream, options,
                                       [this](std::function<void()> then) { server_->post(std::move(then)); });
  thread_ = std::make_unique<Thread>([this] { server_->run(); });
}

Loopback::~Loopback() {
  server_->stop();
  thread_.reset();
  service_.reset();
}

Caller::Caller(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int on = 1;
  if (socket_ < 0 || connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    leave();
    fail_system("connect");
  }
}

void Caller::leave() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
}

void Caller::ask(const char* method, const std::string& path, const Json& body) {
  const std::string content = body.is_null() ? "" : body.dump();
  const std::string request =
      fmt::format("{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}", method,
                  path, content.size(), content);
  for (size_t at = 0; at < request.size();) {
    const ssize_t count = send(socket_, request.data() + at, request.size() - at, MSG_NOSIGNAL);
    if (count <= 0) fail_system("send");
    at += static_cast<size_t>(count);
  }
}

void Caller::read() {
  char piece[16384];
  while (!ended_) {
    const ssize_t count = recv(socket_, piece, sizeof piece, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (count <= 0) return end();
    text_.append(piece, static_cast<size_t>(count));
    count_events();
  }
}

/// Counts what is new in text_, and forgets it where it is a stream's.
void Caller::count_events() {
  for (size_t at = 0; (at = text_.find(kData, scanned_)) != text_.npos && at + kData.size() < text_.size();) {
    scanned_ = at + kData.size();
    if (text_[scanned_] == '{') {
      events_++;
      if (notes_) times_.push_back(std::chrono::steady_clock::now());
    } else {
      ended_ = true;
    }
  }
  if (text_.size() > kData.size()) scanned_ = std::max(scanned_, text_.size() - kData.size());
  if (events_ == 0) return;
  text_.erase(0, scanned_);
  scanned_ = 0;
}

void Caller::end() {
  ended_ = true;
  if (events_ > 0 || text_.starts_with(kGood)) return;
  const size_t line = std::min(text_.find("\r\n"), text_.size()), body = text_.find("\r\n\r\n");
  fail(ErrorKind::kIo, "loopback: got \"{}\" {}, expected {}", text_.substr(0, line),
       body == text_.npos ? "" : text_.substr(body + 4), kGood);
}

Json Caller::body() const {
  const size_t body = text_.find("\r\n\r\n");
  return parse_json(body == text_.npos ? "" : text_.substr(body + 4), "loopback");
}

void read_until(const Callers& callers, const std::function<bool()>& done, const std::function<bool()>& stop,
                int look_ms) {
  constexpr int kSilence = 120000;  // in milliseconds
  std::vector<pollfd> waits(callers.size());
  for (int silent = 0; !done(); silent += look_ms) {
    if (stop && stop()) fail(ErrorKind::kCancelled, "loopback: stopped");
    if (silent > kSilence) fail(ErrorKind::kIo, "loopback: the server was silent for {} ms", kSilence);
    bool any_open = callers.empty();
    for (size_t i = 0; i < callers.size(); ++i) {
      const bool open = !callers[i]->ended();
      waits[i] = {open ? callers[i]->socket() : -1, POLLIN, 0};
      any_open = any_open || open;
    }
    if (!any_open) fail(ErrorKind::kIo, "loopback: the server ended all answers too early");
    if (poll(waits.data(), waits.size(), look_ms) <= 0) continue;
    silent = -look_ms;
    for (size_t i = 0; i < callers.size(); ++i) {
      if (waits[i].revents != 0) callers[i]->read();
    }
  }
}

}  // namespace carousel::serve
