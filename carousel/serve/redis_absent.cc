// SPDX-License-Identifier: Apache-2.0
// In place of redis_shelf.cc and redis_connection.cc where carousel is built without hiredis.
#include "carousel/core/error.h"
#include "carousel/serve/shelf.h"

namespace carousel::serve {

bool has_redis() { return false; }

std::unique_ptr<Shelf> open_redis(const RedisAddress& address, const model::Model& /*model*/,
                                  const std::string& /*scratch*/) {
  fail(ErrorKind::kInput, "{}: this carousel was built without hiredis, which a store in Redis needs", address.name());
}

}  // namespace carousel::serve
