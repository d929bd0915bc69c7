// SPDX-License-Identifier: Apache-2.0
// Errors. Input (files, flags, shapes from a caller) throws Error; a broken invariant aborts (core/assert.h).
// A message reads "where: what, got, expected": lower case, no full stop, names quoted, numbers exact.
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "carousel/core/assert.h"

namespace carousel {

enum class ErrorKind {
  kInput,      // a file, config or text that cannot be used
  kShape,      // a tensor or argument of the wrong shape or dtype
  kState,      // a saved state that does not fit this model, or is damaged
  kUsage,      // a command line that does not parse (exit status 2)
  kIo,         // the operating system refused a read or write
  kDevice,     // a device that is missing, or that cannot do what is asked
  kLost,       // a device that failed: nothing that is on it can be had or used again
  kCancelled,  // the caller asked to stop
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Throws Error(kind, formatted message).
template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace carousel
