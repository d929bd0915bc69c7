// SPDX-License-Identifier: Apache-2.0
// A client of HTTP on loopback that says what it is told to, right or wrong.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace carousel::serve {

struct Answer {
  int status = 0;  // 0: the connection ended without one
  std::string head, body;
};

class Client {
 public:
  /// receive_buffer: bytes that the system may hold for it; 0: as many as it likes.
  explicit Client(int port, int receive_buffer = 0) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }
  void send(const std::string& bytes) const {
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t count = ::send(socket_, bytes.data() + at, bytes.size() - at, MSG_NOSIGNAL);
      if (count <= 0) return;
      at += static_cast<size_t>(count);
    }
  }
  void ask(const std::string& method, const std::string& path, const std::string& body = "",
           const std::string& headers = "") const {
    send(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n" + headers + "\r\n" + body);
  }
  /// What comes within the time; empty: nothing, or the end.
  std::string receive(int ms = 30000, size_t most = 65536) const {
    pollfd wanted = {socket_, POLLIN, 0};
    if (poll(&wanted, 1, ms) <= 0) return "";
    std::string piece(most, '\0');
    const ssize_t count = recv(socket_, piece.data(), piece.size(), 0);
    piece.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return piece;
  }
  /// One answer; chunks are put together.
  Answer answer() {
    Answer out;
    while (rest_.find("\r\n\r\n") == rest_.npos) {
      const std::string more = receive();
      if (more.empty()) return out;
      rest_ += more;
    }
    const size_t end = rest_.find("\r\n\r\n") + 4;
    out.head = rest_.substr(0, end);
    rest_.erase(0, end);
    out.status = std::atoi(out.head.c_str() + 9);
    const size_t length = out.head.find("Content-Length: ");
    if (length != out.head.npos) {
      const size_t count = std::strtoul(out.head.c_str() + length + 16, nullptr, 10);
      if (fill(count)) out.body = take(count);
    } else if (out.head.find("chunked") != out.head.npos) {
      for (;;) {
        while (rest_.find("\r\n") == rest_.npos && fill(rest_.size() + 1)) {
        }
        const size_t count = std::strtoul(rest_.c_str(), nullptr, 16), line = rest_.find("\r\n") + 2;
        if (rest_.empty() || !fill(line + count + 2)) return out;
        take(line);
        out.body += take(count);
        take(2);
        if (count == 0) break;
      }
    }
    return out;
  }

 private:
  bool fill(size_t count) {
    while (rest_.size() < count) {
      const std::string more = receive();
      if (more.empty()) return false;
      rest_ += more;
    }
    return true;
  }
  std::string take(size_t count) {
    std::string out = rest_.substr(0, count);
    rest_.erase(0, count);
    return out;
  }

  int socket_;
  bool connected_ = false;
  std::string rest_;  // received and not used
};

}  // namespace carousel::serve
