// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/error.h"

#include <unistd.h>

#include <cstdlib>

namespace carousel {

void assert_failed(const char* condition, const char* file, int line) {
  const std::string message = fmt::format("{}:{}: broken invariant: {}\n", file, line, condition);
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, message.data(), message.size());
  std::abort();
}

}  // namespace carousel
