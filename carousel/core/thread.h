// SPDX-License-Identifier: Apache-2.0
// A thread whose stack has one size everywhere. The system's default is the limit on the first thread's stack, and
// `ulimit -s 64` leaves too little for a matrix product or a regular expression.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace carousel {

class Thread {
 public:
  static constexpr size_t kStackBytes = size_t{8} << 20;  // address space; only pages that are used take memory

  /// Starts `run`, which must not throw. Throws std::system_error where the system refuses.
  explicit Thread(std::function<void()> run);
  ~Thread();  // joins
  Thread(Thread&&) noexcept = default;
  Thread(const Thread&) = delete;
  Thread& operator=(const Thread&) = delete;
  void join();

 private:
  std::unique_ptr<std::function<void()>> run_;  // null once joined
  pthread_t thread_ = {};
};

}  // namespace carousel
