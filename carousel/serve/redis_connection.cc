// SPDX-License-Identifier: Apache-2.0
// hiredis's calls, with limits of time, and its replies as values.
#include "carousel/serve/redis_connection.h"

#include <fmt/format.h>
#include <hiredis/hiredis.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <ctime>
#include <new>
#include <utility>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

constexpr timeval kConnectTime = {2, 0}, kAnswerTime = {5, 0};

/// While it lives, a write to a connection that the other side has closed sends this thread no SIGPIPE.
class NoPipeSignal {
 public:
  NoPipeSignal() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoPipeSignal() {
    const timespec now = {};
    while (sigtimedwait(&pipe_, nullptr, &now) > 0) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoPipeSignal(const NoPipeSignal&) = delete;
  NoPipeSignal& operator=(const NoPipeSignal&) = delete;

 private:
  sigset_t pipe_ = {}, before_ = {};
};

RedisReply value_of(const redisReply& reply) {
  RedisReply out;
  switch (reply.type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
      out.kind = reply.type == REDIS_REPLY_ERROR ? RedisReply::Kind::kError : RedisReply::Kind::kText;
      out.text.assign(reply.str, reply.len);
      break;
    case REDIS_REPLY_INTEGER:
      out.kind = RedisReply::Kind::kNumber;
      out.number = reply.integer;
      break;
    case REDIS_REPLY_ARRAY:
      out.kind = RedisReply::Kind::kList;
      for (size_t i = 0; i < reply.elements; ++i) out.list.push_back(value_of(*reply.element[i]));
      break;
    default:
      break;
  }
  return out;
}

RedisLost lost(const redisContext& context) {
  const bool timed_out = context.err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ETIMEDOUT);
  return {timed_out ? "it does not answer in time" : context.errstr, timed_out};
}

}  // namespace

void check_reply(const RedisReply& reply) {
  for (const RedisReply& inner : reply.list) check_reply(inner);
  if (reply.kind != RedisReply::Kind::kError) return;
  if (reply.text.starts_with("OOM")) throw full_error("the memory of the store is full");
  throw unavailable_error(fmt::format("refuses: {}", reply.text.substr(0, reply.text.find(' '))));
}

void RedisConnection::Close::operator()(redisContext* context) const { redisFree(context); }

RedisConnection::RedisConnection(const RedisAddress& address) {
  const NoPipeSignal no_signal;
  context_.reset(redisConnectWithTimeout(address.host.c_str(), address.port, kConnectTime));
  if (!context_) throw std::bad_alloc();
  if (context_->err != 0) throw RedisLost{context_->errstr, true};
  redisSetTimeout(context_.get(), kAnswerTime);
  const std::string database = std::to_string(address.database);
  std::vector<Command> commands;
  if (!address.password.empty()) {
    commands.push_back({"AUTH"});
    if (!address.user.empty()) commands.back().push_back(address.user);
    commands.back().push_back(address.password);
  }
  commands.push_back({"SELECT", database});
  for (const RedisReply& reply : ask_all(commands)) {
    if (reply.kind != RedisReply::Kind::kError) continue;
    fail(ErrorKind::kIo, "{}: it refuses the connection: {}", address.name(), reply.text);
  }
}

RedisConnection::~RedisConnection() = default;

std::vector<RedisReply> RedisConnection::ask_all(const std::vector<Command>& commands) {
  const NoPipeSignal no_signal;
  for (const Command& command : commands) {
    std::vector<const char*> words;
    std::vector<size_t> sizes;
    for (const std::string_view word : command) {
      words.push_back(word.data());
      sizes.push_back(word.size());
    }
    const auto count = static_cast<int>(words.size());
    if (redisAppendCommandArgv(context_.get(), count, words.data(), sizes.data()) != REDIS_OK) throw lost(*context_);
  }
  std::vector<RedisReply> out;
  while (out.size() < commands.size()) {
    void* reply = nullptr;
    errno = 0;
    if (redisGetReply(context_.get(), &reply) != REDIS_OK) throw lost(*context_);
    const std::unique_ptr<void, void (*)(void*)> owner(reply, freeReplyObject);
    out.push_back(value_of(*static_cast<const redisReply*>(reply)));
  }
  return out;
}

RedisReply RedisConnection::ask(const Command& command) {
  RedisReply reply = std::move(ask_all({command})[0]);
  check_reply(reply);
  return reply;
}

}  // namespace carousel::serve
