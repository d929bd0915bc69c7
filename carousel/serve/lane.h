// SPDX-License-Identifier: Apache-2.0
// A thread that runs what it is given, in order.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "carousel/core/thread.h"

namespace carousel::serve {

class Lane {
 public:
  enum class Rest { kRun, kDrop };  // what becomes of tasks that wait when the lane ends
  /// `beat` is run between tasks, once every `period`; empty: nothing. Neither it nor a task may throw. `niceness`: how
  /// far the thread stands back on busy cores.
  explicit Lane(Rest rest, std::chrono::seconds period = {}, std::function<void()> beat = {}, int niceness = 0);
  ~Lane();  // joins
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  void add(std::function<void()> task);

 private:
  void run();

  const Rest rest_;
  const std::chrono::seconds period_;
  const std::function<void()> beat_;
  const int niceness_;
  std::mutex mutex_;
  std::condition_variable news_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  bool stopping_ = false;                    // guarded by mutex_
  std::unique_ptr<Thread> thread_;           // last: it uses all of the above
};

}  // namespace carousel::serve
