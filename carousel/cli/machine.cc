// SPDX-License-Identifier: Apache-2.0
// What commands share of the process: threads and instruction set, and Ctrl-C. What a signal handler can reach has to
// be global; it stays in this file.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "carousel/cli/command.h"
#include "carousel/cli/options.h"
#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxThreads = 1024;

volatile std::sig_atomic_t g_interrupts = 0;
volatile std::sig_atomic_t g_patience = 1;
int g_wake[2] = {-1, -1};  // a pipe with a byte for each signal: one that comes just before poll() ends it too

void on_signal(int signal) {
  if (g_interrupts >= g_patience) _exit(kInterruptedStatus);
  g_interrupts = signal == SIGINT ? g_interrupts + 1 : g_patience;
  const int error = errno;
  [[maybe_unused]] const ssize_t written = write(g_wake[1], "", 1);
  errno = error;
}

/// What a handler may do that does not return.
[[noreturn]] void say_and_exit(std::string_view message, int status) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message.data(), message.size());
  _exit(status);
}

// Nothing can go on: the value that was to be read is gone.
void on_lost_page(int) {
  say_and_exit("carousel: error: a mapped file became shorter while it was in use, or its disk failed (SIGBUS)\n", 1);
}

void on_signal_at_first(int) { say_and_exit("carousel: error: interrupted\n", kInterruptedStatus); }

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
  handle(SIGBUS, on_lost_page);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    if (!is_ignored(signal)) handle(signal, on_signal_at_first);
  }
}

void Machine::add_options(CLI::App& app) {
  CLI::Option* option = app.add_option("-t,--threads", [this](const CLI::results_t& results) {
    threads = static_cast<int>(parse_integer("--threads", results.back(), 0, kMaxThreads));
    return true;
  });
  option->description("Threads; 0: one per physical core")->type_name("INT")->default_str("0");
  std::vector<std::string> names{"auto"};
  for (const Isa known : cpu::built_isas()) names.emplace_back(cpu::isa_name(known));
  add_choice(app, "--isa", isa, names, "Instruction set");
}

void Machine::add_compute(CLI::App& app) {
  add_choice(app, "--compute", compute, {"f32", "bf16"}, "Products with bf16 weights; bf16 rounds their input");
}

Stream Machine::stream() {
  Stream stream;
  stream.compute = compute == "bf16" ? Compute::kBF16 : Compute::kF32;
  stream.isa = isa == "auto" ? cpu::best_isa() : cpu::parse_isa(isa);
  pool_ = std::make_unique<ThreadPool>(threads > 0 ? threads : physical_cores());
  stream.pool = pool_.get();
  return stream;
}

bool interrupted() { return g_interrupts != 0; }

int take_interrupts() {
  const int count = g_interrupts;
  g_interrupts = 0;
  return count;
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

bool wait_readable(int descriptor) {
  for (;;) {
    pollfd ready[] = {{descriptor, POLLIN, 0}, {g_wake[0], POLLIN, 0}};  // no pipe (-1) is passed over
    const int events = poll(ready, 2, -1);
    if (interrupted()) return false;
    if (events < 0 && errno != EINTR) return true;  // read() tells what is wrong
    char stale[64];                                 // of signals that were taken
    if (events > 0 && ready[1].revents != 0 && read(g_wake[0], stale, sizeof stale) < 0) continue;
    if (events > 0 && ready[0].revents != 0) return true;
  }
}

}  // namespace carousel::cli
