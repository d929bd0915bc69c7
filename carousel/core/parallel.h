// SPDX-License-Identifier: Apache-2.0
// The thread pool. A region is one call of run() or run_steps().
//
// 1. run() publishes what the caller wrote before it to every task, and what the tasks wrote to the caller.
// 2. Two tasks of a region, or two slices of a step, are not ordered. Callers divide only what is independent, so that
//    no result depends on the number of threads or on who ran what.
// 3. Every slice of step s + 1 sees what every slice of step s wrote.
// 4. A pool runs one region at a time. A second caller waits for the first one's end.
//
// How the pool keeps these is numbered in parallel.cc. cpu/divide.h says which way of dividing work to choose.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace carousel {

/// Threads that spin briefly for the next region and then sleep. A forked process has none of them: the child must not
/// use its parent's pool, not even destroy it.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // counting the caller; at least 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  int threads() const { return threads_; }

  using Task = void (*)(void* context, int64_t index);
  /// Calls task(context, i) once for every i in [0, count), on any thread; returns when all are done.
  /// Tasks must not throw and must not call run on the same pool. Indices are claimed one by one.
  void run(int64_t count, Task task, void* context);

 private:
  struct Shared;
  int threads_;
  std::unique_ptr<Shared> shared_;
};

/// Calls task(context, slice, step) once for every slice in [0, slices) and step in [0, steps): no slice of a step
/// begins before all slices of the step before are done. A slice stays on one thread as long as that thread runs, so
/// that core's cache keeps what the slice reads; the other threads take over a slice that no thread came for. At most
/// kMaxSlices; more slices than the pool has threads gain nothing. The rules for tasks are those of ThreadPool::run. A
/// step costs about as much as moving a cache line from core to core.
using StepTask = void (*)(void* context, int64_t slice, int64_t step);
constexpr int64_t kMaxSlices = 64;
void run_steps(ThreadPool& pool, int64_t slices, int64_t steps, StepTask task, void* context);

/// Cores this process may run on, hyperthreads counted once; no more than its control groups give it time for, rounded
/// down: one more thread would spin at the expense of the others.
int physical_cores();

/// pool.run for a callable f(int64_t index). No allocation.
template <class F>
void parallel_for(ThreadPool& pool, int64_t count, F&& f) {
  pool.run(
      count, [](void* context, int64_t index) { (*static_cast<std::remove_reference_t<F>*>(context))(index); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// run_steps for a callable f(int64_t slice, int64_t step). No allocation.
template <class F>
void parallel_steps(ThreadPool& pool, int64_t slices, int64_t steps, F&& f) {
  run_steps(
      pool, slices, steps,
      [](void* context, int64_t slice, int64_t step) {
        (*static_cast<std::remove_reference_t<F>*>(context))(slice, step);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace carousel
