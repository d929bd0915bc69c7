// SPDX-License-Identifier: Apache-2.0
// A server in this process on a free port of loopback, and callers of it: what the measurements of `carousel bench
// --serve` work with.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/thread.h"
#include "carousel/serve/http.h"
#include "carousel/serve/service.h"

namespace carousel::serve {

class Loopback {
 public:
  /// Serves until it is destroyed. `model` and the stream's memory must outlive it. Throws Error(kIo).
  Loopback(const model::Model& model, const Stream& stream, const ServiceOptions& options);
  ~Loopback();
  Loopback(const Loopback&) = delete;
  Loopback& operator=(const Loopback&) = delete;

  int port() const { return server_->port(); }
  const EngineFigures& figures() const { return service_->figures(); }

 private:
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Thread> thread_;
};

/// One request on a connection of its own, and its answer as it arrives. It ends with the connection or with the event
/// "[DONE]". Nothing is sent before ask(), so the connection can be there before a measurement begins.
class Caller {
 public:
  using Time = std::chrono::steady_clock::time_point;

  /// Throws Error(kIo) where no connection can be made.
  explicit Caller(int port);
  ~Caller() { leave(); }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  /// body: null: none.
  void ask(const char* method, const std::string& path, const Json& body = {});
  /// Closes the connection.
  void leave();
  /// Takes what has arrived, without waiting. Throws Error(kIo) once an answer is whole whose status is not 200.
  void read();

  int socket() const { return socket_; }
  bool ended() const { return ended_; }
  int64_t events() const { return events_; }  // of those that hold an object
  /// From now on the times of events are noted.
  void note_times() { notes_ = true; }
  const std::vector<Time>& times() const { return times_; }
  /// The body of an answer without events, once it has ended. Throws Error(kIo) where it is no JSON.
  Json body() const;

 private:
  void count_events();
  void end();

  int socket_ = -1;
  bool ended_ = false, notes_ = false;
  int64_t events_ = 0;
  std::string text_;    // what has arrived; of events what may be the beginning of another one
  size_t scanned_ = 0;  // of text_: no event begins before
  std::vector<Time> times_;
};
using Callers = std::vector<std::unique_ptr<Caller>>;

/// Reads from all callers until `done`, which is asked after whatever arrives and after each `look_ms` without it: a
/// look takes a core from the model. Throws Error(kCancelled) where `stop` says so, Error(kIo) where nothing arrives
/// for two minutes.
void read_until(const Callers& callers, const std::function<bool()>& done, const std::function<bool()>& stop,
                int look_ms = 50);

}  // namespace carousel::serve
