// SPDX-License-Identifier: Apache-2.0
// A thread and its tasks.
//
// 1. Any thread adds to tasks_, and the lane's alone takes from it, both under mutex_. A task runs without the lock.
// 2. Once stopping_ is set the thread ends: at once, or when tasks_ is empty (Rest::kRun).
#include "carousel/serve/lane.h"

#include <sys/resource.h>
#include <unistd.h>

#include <utility>

namespace carousel::serve {

Lane::Lane(Rest rest, std::chrono::seconds period, std::function<void()> beat, int niceness)
    : rest_(rest), period_(period), beat_(std::move(beat)), niceness_(niceness) {
  thread_ = std::make_unique<Thread>([this] { run(); });
}

Lane::~Lane() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  news_.notify_one();
  thread_.reset();
}

void Lane::add(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  news_.notify_one();
}

void Lane::run() {
  if (niceness_ != 0) setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), niceness_);  // Linux: of this thread
  auto due = std::chrono::steady_clock::now() + period_;
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      const auto has_work = [&] { return stopping_ || !tasks_.empty(); };
      if (beat_) {
        news_.wait_until(lock, due, has_work);
      } else {
        news_.wait(lock, has_work);
      }
      if (stopping_ && (tasks_.empty() || rest_ == Rest::kDrop)) return;
      if (!tasks_.empty()) {
        task = std::move(tasks_.front());
        tasks_.pop_front();
      }
    }
    if (task) task();
    if (!beat_ || std::chrono::steady_clock::now() < due) continue;
    beat_();
    due = std::chrono::steady_clock::now() + period_;
  }
}

}  // namespace carousel::serve
