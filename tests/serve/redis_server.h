// SPDX-License-Identifier: Apache-2.0
// A redis-server of a test: on a free port of loopback, in a folder of its own.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "carousel/serve/shelf.h"
#include "tests/cli/process.h"
#include "tests/comes_true.h"
#include "tests/scratch.h"
#include "tests/serve/client.h"

namespace carousel::serve {

/// Why tests of Redis cannot run here; empty: they can.
inline std::string no_redis() {
  if (access("/usr/bin/redis-server", X_OK) != 0) return "redis-server is not installed (make deps installs it)";
  return has_redis() ? "" : "this carousel was built without hiredis";
}

class RedisServer {
 public:
  explicit RedisServer(std::vector<std::string> options = {}) : options_(std::move(options)) { start(); }

  /// Also after kill(): at the same port, with what it had written to its folder.
  void start() {
    for (int attempt = 0; attempt < 20; ++attempt) {
      if (port_ == 0 || attempt > 0) port_ = free_port();
      std::vector<std::string> arguments = {"--port", std::to_string(port_), "--bind", "127.0.0.1",
                                            "--dir",  scratch_ / "",         "--save", ""};
      arguments.insert(arguments.end(), options_.begin(), options_.end());
      process_ = std::make_unique<cli::Process>("/usr/bin/redis-server", arguments, -1);
      bool answers = false;
      comes_true([&] {
        const std::string answer = ask("PING");
        answers = answer.starts_with("+PONG") || answer.starts_with("-NOAUTH");
        return answers || has_ended();
      });
      if (answers) return;
    }
    ADD_FAILURE() << "redis-server does not start";
  }
  void kill() {
    process_->send(SIGKILL);
    process_->wait();
  }
  void send(int signal) const { process_->send(signal); }

  /// One line of Redis's protocol.
  std::string ask(const std::string& line) const {
    const Client client(port_);
    if (!client.connected()) return "";
    client.send(line + "\r\n");
    return client.receive(3000);
  }
  RedisAddress address() const {
    RedisAddress out;
    out.host = "127.0.0.1";
    out.port = port_;
    out.part_bytes = 10000;
    return out;
  }
  std::string url() const { return address().name(); }

 private:
  /// Where another program has taken the port, say.
  bool has_ended() const {
    siginfo_t what = {};
    const auto pid = static_cast<id_t>(process_->pid());
    return waitid(P_PID, pid, &what, WEXITED | WNOHANG | WNOWAIT) == 0 && what.si_pid != 0;
  }
  static int free_port() {
    const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    bind(socket, reinterpret_cast<sockaddr*>(&address), size);
    getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
    ::close(socket);
    return ntohs(address.sin_port);
  }

  const Scratch scratch_;
  const std::vector<std::string> options_;
  int port_ = 0;
  std::unique_ptr<cli::Process> process_;
};

}  // namespace carousel::serve
