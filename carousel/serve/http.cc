// SPDX-License-Identifier: Apache-2.0
// The listener and the end of the server. All runs on the thread of run(), but for post() and stop().
#include "carousel/serve/http.h"

#include "carousel/core/error.h"
#include "carousel/serve/connection.h"

namespace carousel::serve {

struct HttpServer::Impl : std::enable_shared_from_this<HttpServer::Impl> {
  Impl(const HttpOptions& o, Handler handler, Screen screen)
      : connections{o, std::move(handler), std::move(screen), {}, false}, acceptor(io) {}

  Connections connections;
  net::io_context io{1};
  tcp::acceptor acceptor;

  Awaitable<void> accept();
  Awaitable<void> drain();
  void begin_stop();
};

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
    if (connections.open.size() >= connections.options.connections) continue;  // closes it
    socket.set_option(tcp::no_delay(true), error);
    auto connection = std::make_shared<Connection>(connections, std::move(socket));
    net::co_spawn(
        io, [connection] { return connection->run(); }, net::detached);
  }
}

/// No more connections; those without a request end, the others when they are answered or the time is up.
void HttpServer::Impl::begin_stop() {
  if (connections.stopping) return;
  connections.stopping = true;
  error_code ignored;
  acceptor.close(ignored);
  for (Connection* const connection : connections.open) {
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
  for (bool told = false; !connections.open.empty() && waited < connections.options.drain_seconds + kGrace;
       waited += kPoll) {
    if (!told && waited >= connections.options.drain_seconds) {
      told = true;
      for (Connection* const connection : connections.open)
        connection->break_off({503, "the server is shutting down", "", "", {}});
    }
    timer.expires_after(seconds(kPoll));
    co_await timer.async_wait(use_awaitable);
  }
  io.stop();
}

HttpServer::HttpServer(const HttpOptions& options, Handler handler, Screen screen)
    : impl_(std::make_shared<Impl>(options, std::move(handler), std::move(screen))) {
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
size_t HttpServer::connections() const { return impl_->connections.open.size(); }

void HttpServer::run() {
  net::co_spawn(
      impl_->io, [impl = impl_] { return impl->accept(); }, net::detached);
  const auto work = net::make_work_guard(impl_->io);
  impl_->io.run();
  // Coroutines that are ready but have not run own Impl, and Impl owns the queue that holds them: they run now.
  impl_->io.restart();
  impl_->io.poll();
}

void HttpServer::post(std::function<void()> then) { net::post(impl_->io, std::move(then)); }
void HttpServer::stop() {
  net::post(impl_->io, [impl = impl_] { impl->begin_stop(); });
}

}  // namespace carousel::serve
