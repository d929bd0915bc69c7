// SPDX-License-Identifier: Apache-2.0
// The pool's regions and run_steps. The gate is one 64-bit word:
//
//   63 .................... 32 | 31 ................... 0
//   number of the region,      | workers that have added
//   odd while it is open       | themselves and not left
//
// 1. The caller, under caller_mutex, writes count, task, context and next while the region is closed and every worker
//    of the last open region has left. Its fetch_add that opens the gate publishes them.
// 2. A worker enters by fetch_add(1), and reads the number it entered in the same instruction. It reads count, task,
//    context and next only if that number is odd, and leaves by fetch_sub(1), which publishes what its tasks wrote.
// 3. The caller closes the gate by another fetch_add, then waits for the low half to be 0: that load acquires what the
//    tasks wrote. A worker that adds itself to a closed region touches nothing but the gate. So nobody waits for a
//    worker that slept through a region, and no worker touches a region that has ended.
// 4. An index of a region belongs to the thread whose fetch_add on next returned it.
// 5. A sleeper counts itself in sleepers, under sleep_mutex, before it reads the gate; the caller opens the gate before
//    it reads sleepers. One of the two therefore sees the other, and no sleeper misses a region.
// 6. In run_steps step s of a slice belongs to the thread whose compare-exchange took `claimed` from s to s + 1. That
//    thread alone stores done = s + 1, with release. A thread begins step s + 1 once it has read, with acquire,
//    done > s from every slice.
// 7. A thread that waits for those inside a region spins for kHeld and then yields its core between looks: another
//    program, or a thread of this pool that has lost its own core, runs there.
#include "carousel/core/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "carousel/core/control_groups.h"
#include "carousel/core/error.h"
#include "carousel/core/thread.h"

namespace carousel {
namespace {

using Clock = std::chrono::steady_clock;
using Time = std::chrono::microseconds;

// A forward opens a region every few tens of microseconds; waking a sleeping thread costs as much.
constexpr Time kSpin{50};
constexpr Time kHeld{50};        // longer than threads need to finish their last tasks of a common region
constexpr Time kPatience{2000};  // a worker waits this long for a region's end, then sleeps: its tasks are just long
constexpr int kPolls = 32;
constexpr uint64_t kRegion = uint64_t{1} << 32;  // odd region numbers are open, even ones closed
constexpr uint64_t kInsideMask = kRegion - 1;

uint64_t region_of(uint64_t gate) { return gate / kRegion; }
bool is_open(uint64_t gate) { return region_of(gate) % 2 == 1; }

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");  // waits about as long as x86's pause; yield does nothing on most cores
#endif
}

/// Asks done() a few times, for about a microsecond; true once it was.
template <class Done>
bool poll(const Done& done) {
  for (int i = 0; i < kPolls; ++i) {
    if (done()) return true;
    pause();
  }
  return false;
}

}  // namespace

struct ThreadPool::Shared {
  // A thread that enters owns the gate's cache line: what it reads next lies on that line too.
  alignas(64) std::atomic<uint64_t> gate{0};
  int64_t count = 0;                         // tasks of the region
  Task task = nullptr;                       // the region's function
  void* context = nullptr;                   // its first argument
  alignas(64) std::atomic<int64_t> next{0};  // first unclaimed index
  alignas(64) std::atomic<bool> stopping{false};
  std::atomic<int> sleepers{0};
  std::mutex sleep_mutex;
  std::condition_variable wake;
  std::mutex caller_mutex;
  std::vector<Thread> workers;

  void claim_all() {
    const Task run = task;
    void* const with = context;
    const int64_t end = count;
    for (;;) {
      const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= end) return;
      run(with, index);
    }
  }

  /// Spins until done() or the time is up; returns done().
  template <class Done>
  bool spin_until(const Done& done, Time time) {
    if (poll(done)) return true;
    for (const auto start = Clock::now(); Clock::now() - start < time;) {
      if (poll(done)) return true;
    }
    return false;
  }

  /// spin_until for a thread that waits for those inside a region: after kHeld it looks for one that lost its core.
  template <class Done>
  bool outlast(const Done& done) {
    if (spin_until(done, kHeld)) return true;
    for (const auto start = Clock::now(); Clock::now() - start < kPatience;) {
      std::this_thread::yield();
      if (poll(done)) return true;
    }
    return false;
  }

  void work() {
    uint64_t done_region = 0;
    const auto has_news = [&] {
      const uint64_t seen = gate.load();
      return (is_open(seen) && region_of(seen) != done_region) || stopping.load();
    };
    const auto is_over = [&] {  // done_region has ended
      const uint64_t seen = gate.load();
      return region_of(seen) > done_region && ((seen & kInsideMask) == 0 || is_open(seen));
    };
    for (;;) {
      if (!spin_until(has_news, kSpin)) sleep_until(has_news);
      if (stopping.load()) return;
      const uint64_t entered = gate.fetch_add(1);
      if (is_open(entered)) {
        claim_all();
        done_region = region_of(entered);
      }
      gate.fetch_sub(1);
      if (is_open(entered)) outlast(is_over);
    }
  }

  template <class Done>
  void sleep_until(const Done& done) {
    std::unique_lock lock(sleep_mutex);
    sleepers.fetch_add(1);  // invariant 5
    wake.wait(lock, done);
    sleepers.fetch_sub(1);
  }

  void wake_all() {
    if (sleepers.load() == 0) return;
    { const std::lock_guard lock(sleep_mutex); }  // whoever counted itself is inside wait() now
    wake.notify_all();
  }

  void stop() {
    stopping.store(true);
    wake_all();
    for (Thread& worker : workers) worker.join();
  }
};

namespace {

/// While it lives, neither the calling thread nor a thread that it starts takes signals that are sent to the process: a
/// program that handles them wants them on a thread of its own, whose system calls they interrupt.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t sent;
    sigfillset(&sent);
    for (const int own_fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) {
      sigdelset(&sent, own_fault);  // SIGPROF: a profiler samples who runs
    }
    pthread_sigmask(SIG_BLOCK, &sent, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads), shared_(std::make_unique<Shared>()) {
  if (threads < 1) fail(ErrorKind::kUsage, "threads: got {}, expected at least 1", threads);
  const SignalsBlocked blocked;
  try {
    for (int i = 1; i < threads; ++i) shared_->workers.emplace_back([shared = shared_.get()] { shared->work(); });
  } catch (const std::exception& error) {
    shared_->stop();
    fail(ErrorKind::kUsage, "threads: the system refused to start {} threads: {}", threads, error.what());
  }
}

ThreadPool::~ThreadPool() { shared_->stop(); }

void ThreadPool::run(int64_t count, Task task, void* context) {
  if (count <= 0) return;
  Shared& shared = *shared_;
  const std::lock_guard lock(shared.caller_mutex);
  if (threads_ == 1 || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  shared.count = count;
  shared.task = task;
  shared.context = context;
  shared.next.store(0, std::memory_order_relaxed);
  shared.gate.fetch_add(kRegion);
  shared.wake_all();
  shared.claim_all();
  shared.gate.fetch_add(kRegion);
  const auto is_empty = [&] { return (shared.gate.load() & kInsideMask) == 0; };
  while (!shared.outlast(is_empty)) std::this_thread::yield();
}

namespace {

constexpr int kPausesBeforeHelp = 1000;  // tens of microseconds: longer than slices of a step differ

/// Slices walking in step (invariant 6). A slice's counters have a cache line of their own: its thread writes it, the
/// others read it.
struct Steps {
  struct alignas(64) Slice {
    std::atomic<int64_t> claimed{0};  // steps begun
    std::atomic<int64_t> done{0};     // steps ended
  };
  Slice slices[kMaxSlices];
  int64_t slice_count, step_count;
  StepTask task;
  void* context;

  bool run(int64_t slice, int64_t step) {
    Slice& own = slices[slice];
    int64_t expected = step;
    if (!own.claimed.compare_exchange_strong(expected, step + 1, std::memory_order_relaxed)) return false;
    task(context, slice, step);
    own.done.store(step + 1, std::memory_order_release);
    return true;
  }

  /// Returns once every slice has done `step`. Does the slices that nobody begins, and adds them to `mine`.
  void finish(int64_t step, uint64_t& mine) {
    int pauses = 0;
    for (int64_t slice = 0; slice < slice_count; ++slice) {
      while (slices[slice].done.load(std::memory_order_acquire) <= step) {
        pause();
        if (++pauses < kPausesBeforeHelp) continue;
        pauses = 0;
        if (run(slice, step))
          mine |= uint64_t{1} << slice;
        else
          std::this_thread::yield();  // its thread may be waiting for this core
      }
    }
  }

  void walk(int64_t home) {
    uint64_t mine = uint64_t{1} << home;
    // A late thread joins at the last step its slice has done: all slices have done the steps before that.
    const int64_t seen = slices[home].done.load(std::memory_order_acquire);
    for (int64_t step = seen > 0 ? seen - 1 : 0; step < step_count; ++step) {
      for (int64_t slice = 0; slice < slice_count; ++slice) {
        const uint64_t bit = uint64_t{1} << slice;
        if ((mine & bit) != 0 && !run(slice, step) && slice != home) mine &= ~bit;  // its thread is back
      }
      finish(step, mine);
    }
  }
};

}  // namespace

void run_steps(ThreadPool& pool, int64_t slices, int64_t steps, StepTask task, void* context) {
  CAROUSEL_ASSERT(slices >= 0 && slices <= kMaxSlices);
  if (slices == 1 || steps == 1 || pool.threads() == 1) {
    for (int64_t step = 0; step < steps; ++step) {
      if (steps == 1) return parallel_for(pool, slices, [&](int64_t slice) { task(context, slice, 0); });
      for (int64_t slice = 0; slice < slices; ++slice) task(context, slice, step);
    }
    return;
  }
  Steps shared;
  shared.slice_count = slices;
  shared.step_count = steps;
  shared.task = task;
  shared.context = context;
  parallel_for(pool, slices, [&](int64_t slice) { shared.walk(slice); });
}

namespace {

int allowed_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    const unsigned count = std::thread::hardware_concurrency();
    return count == 0 ? 1 : static_cast<int>(count);
  }
  std::set<std::string> cores;  // each core by the list of its hyperthreads
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
    std::string siblings;
    if (!std::getline(file, siblings)) return CPU_COUNT(&allowed);
    cores.insert(siblings);
  }
  return static_cast<int>(cores.size());
}

}  // namespace

int physical_cores() {
  const double quota = cpu_quota();
  const int cores = allowed_cores();
  return quota < cores ? std::max(1, static_cast<int>(quota)) : cores;
}

}  // namespace carousel
