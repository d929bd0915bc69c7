// SPDX-License-Identifier: Apache-2.0
// One connection to a Redis (hiredis), for one thread at a time. Nothing here waits without a limit.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/serve/shelf.h"

struct redisContext;

namespace carousel::serve {

/// Thrown where the connection is lost: nothing more can be asked over it.
struct RedisLost {
  std::string why;
  bool timed_out = false;
};

/// A command is answered with a value of one of these kinds.
struct RedisReply {
  enum class Kind { kNone, kText, kNumber, kList, kError };
  Kind kind = Kind::kNone;
  std::string text;  // of kText (a status too) and kError
  int64_t number = 0;
  std::vector<RedisReply> list;
};

/// Throws HttpError for an answer that is an error or holds one: 507 where Redis has no memory left, else 503.
void check_reply(const RedisReply& reply);

class RedisConnection {
 public:
  /// Throws RedisLost: it cannot be reached; Error(kIo): it refuses user, password or database.
  explicit RedisConnection(const RedisAddress& address);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  using Command = std::vector<std::string_view>;
  /// Throws RedisLost, or what check_reply() does.
  RedisReply ask(const Command& command);
  /// Sends all of them before it waits for the first answer. Errors are among the answers. Throws RedisLost.
  std::vector<RedisReply> ask_all(const std::vector<Command>& commands);

 private:
  struct Close {
    void operator()(redisContext* context) const;
  };
  std::unique_ptr<redisContext, Close> context_;
};

}  // namespace carousel::serve
