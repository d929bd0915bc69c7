// SPDX-License-Identifier: Apache-2.0
// Signals of a command. What a signal handler reaches has to be global; all of it is in this file.
//
// 1. A command runs on a thread of its own, the worker. The first thread blocks all signals and watches.
// 2. on_signal counts in g_interrupts and writes a byte into g_wake, which the worker reads where it waits for a file.
//    Once the patience is used up it also writes kSignalled into g_watch, which the first thread reads. One signal more
//    ends the process.
// 3. The worker writes kEnded into g_watch when its command has returned. The first thread then joins the worker and
//    reads the status.
// 4. A command has kGrace to end after kSignalled. Then the first thread takes g_end. Unless the command has said that
//    it ends by itself, the first thread does the last will and leaves the process, and never gives g_end back. If the
//    command has said so, the first thread gives g_end back and asks again after another kGrace.
// 5. g_will and g_own_end are read and written under g_end. A worker that changes them once the first thread has begun
//    waits for the end of the process.
// 6. g_step is written by the worker and read by on_lost_page.
// 7. g_patience, g_wake and g_watch are written before the handler that reads them is installed.
#include "carousel/cli/signals.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstring>
#include <mutex>
#include <string_view>

#include "carousel/cli/command.h"
#include "carousel/cli/progress.h"
#include "carousel/core/error.h"
#include "carousel/core/thread.h"
#include "carousel/formats/new_file.h"

namespace carousel::cli {
namespace {

std::atomic<int> g_interrupts{0};                      // signals since take_interrupts(), or g_patience after a SIGTERM
static_assert(std::atomic<int>::is_always_lock_free);  // a handler writes it
volatile std::sig_atomic_t g_patience = 1;             // signals a command may take; one more ends the process
volatile std::sig_atomic_t g_silent = 0;               // whether the end is not reported
std::atomic<int64_t> g_step{0};                        // the step of training under way; 0: none
static_assert(std::atomic<int64_t>::is_always_lock_free);
int g_wake[2] = {-1, -1};      // a pipe with a byte for each signal: one that comes just before poll() ends it too
int g_watch[2] = {-1, -1};     // a pipe with kSignalled or kEnded
std::mutex g_end;              // guards g_will and g_own_end
std::function<void()> g_will;  // the last will; may be empty
bool g_own_end = false;        // the command ends by itself

constexpr char kSignalled = 's', kEnded = 'e';
constexpr auto kGrace = std::chrono::milliseconds(400);

void on_signal(int signal) {
  if (g_interrupts >= g_patience) _exit(kInterruptedStatus);
  g_interrupts = signal == SIGINT ? g_interrupts + 1 : g_patience;
  const int error = errno;
  [[maybe_unused]] ssize_t written = write(g_wake[1], "", 1);
  if (g_interrupts >= g_patience) written = write(g_watch[1], &kSignalled, 1);
  errno = error;
}

bool is_writable(int descriptor) {
  pollfd ready = {descriptor, POLLOUT, 0};
  return poll(&ready, 1, 0) > 0;
}

/// Ends the process from a handler. It does not wait for a message that nobody reads.
[[noreturn]] void say_and_exit(std::string_view message, int status) {
  if (is_writable(STDERR_FILENO)) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
  }
  _exit(status);
}

/// Text of a handler, which must not allocate memory. What does not fit is left out.
class HandlerText {
 public:
  void add(std::string_view text) {
    for (const char c : text) {
      if (size_ < sizeof text_) text_[size_++] = c;
    }
  }
  void add(int64_t number) {
    char digits[20];
    const auto written = std::to_chars(digits, digits + sizeof digits, number);
    add({digits, static_cast<size_t>(written.ptr - digits)});
  }
  void clear() { size_ = 0; }
  std::string_view view() const { return {text_, size_}; }

 private:
  char text_[PATH_MAX + 256];
  size_t size_ = 0;
};

/// The file that a line of /proc/self/maps, "begin-end ... /path", maps at an address; empty: another one, or none.
std::string_view file_of(std::string_view line, uintptr_t address) {
  uintptr_t begin = 0, end = 0;
  const char* const last = line.data() + line.size();
  const auto first = std::from_chars(line.data(), last, begin, 16);
  if (first.ptr == last || std::from_chars(first.ptr + 1, last, end, 16).ec != std::errc()) return {};
  const size_t path = line.find('/');
  return path == line.npos || address < begin || address >= end ? std::string_view() : line.substr(path);
}

/// Adds "PATH: " to the message where the system tells which file is mapped at an address.
void add_mapped_file(const void* at, HandlerText& message) {
  const int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (maps < 0) return;
  HandlerText line;
  char chunk[512];
  for (ssize_t count; (count = read(maps, chunk, sizeof chunk)) > 0;) {
    for (const char c : std::string_view(chunk, static_cast<size_t>(count))) {
      if (c != '\n') {
        line.add({&c, 1});
        continue;
      }
      const std::string_view path = file_of(line.view(), reinterpret_cast<uintptr_t>(at));
      if (!path.empty()) {
        message.add(path);
        message.add(": ");
        return;  // the process ends, and with it the open file
      }
      line.clear();
    }
  }
}

// The process cannot go on: the value that was to be read is gone.
void on_lost_page(int, siginfo_t* info, void*) {
  HandlerText message;
  message.add("carousel: error: ");
  if (const int64_t step = g_step; step > 0) {
    message.add("step ");
    message.add(step);
    message.add(": ");
  }
  add_mapped_file(info->si_addr, message);
  message.add("a mapped file became shorter while it was in use, or its disk failed (SIGBUS)\n");
  say_and_exit(message.view(), 1);
}

void on_signal_at_first(int) {
  if (g_silent != 0) _exit(kInterruptedStatus);
  say_and_exit("carousel: error: interrupted\n", kInterruptedStatus);
}

bool is_ignored(int signal) {
  struct sigaction now {};
  return sigaction(signal, nullptr, &now) == 0 && now.sa_handler == SIG_IGN;
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, nullptr);
}

}  // namespace

void report_signals() {
  struct sigaction lost_page {};
  lost_page.sa_sigaction = on_lost_page;
  lost_page.sa_flags = SA_SIGINFO;
  sigemptyset(&lost_page.sa_mask);
  sigaction(SIGBUS, &lost_page, nullptr);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (!is_ignored(signal)) handle(signal, on_signal_at_first);
  }
}

void set_step(int64_t step) { g_step = step; }

bool interrupted() { return g_interrupts != 0; }

int take_interrupts() {
  return g_interrupts.exchange(0);  // a signal between a read and a store would be lost
}

void catch_interrupts(int patience) {
  g_patience = patience;
  if (g_wake[0] < 0 && pipe2(g_wake, O_CLOEXEC | O_NONBLOCK) != 0) {
    fail(ErrorKind::kIo, "no pipe for signals: {}", std::strerror(errno));
  }
  handle(SIGINT, on_signal);
  handle(SIGTERM, on_signal);
  if (!is_ignored(SIGHUP)) handle(SIGHUP, on_signal);
}

void end_silently() { g_silent = 1; }

void catch_too(int signal) { handle(signal, on_signal); }

namespace {

/// Waits until `descriptor` is ready for `events`; false when a signal is to be taken first, however early it came.
bool wait_for(int descriptor, short events) {
  for (;;) {
    pollfd ready[] = {{descriptor, events, 0}, {g_wake[0], POLLIN, 0}};  // no pipe (-1) is passed over
    const int count = poll(ready, 2, -1);
    if (interrupted()) return false;
    if (count < 0 && errno != EINTR) return true;  // read() or write() tells what is wrong
    char stale[64];                                // bytes of signals that were taken
    if (count > 0 && ready[1].revents != 0 && read(g_wake[0], stale, sizeof stale) < 0) continue;
    if (count > 0 && ready[0].revents != 0) return true;
  }
}

}  // namespace

bool wait_readable(int descriptor) { return wait_for(descriptor, POLLIN); }

bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    // After a signal too, what fits into the pipe is written.
    if (!wait_for(descriptor, POLLOUT) && !is_writable(descriptor)) {
      errno = EINTR;
      return false;
    }
    // A pipe that can be written takes so much without waiting.
    const ssize_t count = write(descriptor, text.data(), std::min<size_t>(text.size(), PIPE_BUF));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return false;
    text.remove_prefix(static_cast<size_t>(count));
  }
  return true;
}

void set_last_will(std::function<void()> will) {
  const std::lock_guard lock(g_end);
  g_will = std::move(will);
  g_own_end = false;
}

void end_by_itself() {
  const std::lock_guard lock(g_end);
  g_own_end = true;
}

bool may_go_on(double done) {
  if (interrupted()) return false;
  if (done >= 1) end_by_itself();
  return true;
}

namespace {

/// Returns if the command is ending by itself.
void end_command() {
  const std::lock_guard lock(g_end);
  if (g_own_end) return;
  int status = kInterruptedStatus;
  std::string message = "interrupted";
  try {
    formats::abandon_drafts();
    if (g_will) g_will();
  } catch (const std::exception& error) {
    message = error.what();
    status = 1;
  }
  if (g_silent == 0) note_error(message);
  _exit(status);
}

/// Returns when the worker has ended.
void watch() {
  using Clock = std::chrono::steady_clock;
  Clock::time_point deadline = Clock::time_point::max();
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    const bool waits = deadline != Clock::time_point::max();
    pollfd ready = {g_watch[0], POLLIN, 0};
    const int count = poll(&ready, 1, waits ? static_cast<int>(std::max<int64_t>(0, left.count())) : -1);
    char what = 0;
    if (count > 0 && read(g_watch[0], &what, 1) == 1 && what == kEnded) return;
    if (what == kSignalled && !waits) deadline = Clock::now() + kGrace;
    if (count != 0) continue;
    end_command();
    deadline = Clock::now() + kGrace;  // set_last_will() may have taken end_by_itself() back by then
  }
}

}  // namespace

int run_watched(const std::function<int()>& command) {
  int status = 1;
  if (pipe2(g_watch, O_CLOEXEC) != 0) fail(ErrorKind::kIo, "no pipe for signals: {}", std::strerror(errno));
  Thread worker([&] {
    status = command();
    while (write(g_watch[1], &kEnded, 1) < 0 && errno == EINTR) {
    }
  });
  sigset_t all;  // the worker takes signals, and its system calls are interrupted by them
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  watch();
  worker.join();
  return status;
}

}  // namespace carousel::cli
