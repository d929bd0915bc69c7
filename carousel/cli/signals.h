// SPDX-License-Identifier: Apache-2.0
// Ctrl-C, SIGTERM and SIGHUP: how a command learns of them, waits without missing one, and is ended if it does not end.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace carousel::cli {

/// True once Ctrl-C was pressed (or SIGTERM came).
bool interrupted();
/// One more Ctrl-C than `patience` ends the process at once.
void catch_interrupts(int patience = 1);
/// From now on a signal that ends the process is not reported: another process of its job speaks.
void end_silently();
/// From now on `signal` counts as SIGTERM does.
void catch_too(int signal);
/// Runs a command on a thread of its own, whose stack does not depend on `ulimit -s`, and sees to its end. A command
/// that goes on 0.4 s after signals have used up the patience (it writes where nobody reads, or is within a long step)
/// is ended: its unfinished files are removed, its last will is done, and the status is 130.
int run_watched(const std::function<int()>& command);
/// Sets what run_watched does for a command that it ends: to save a state, say. `will` runs on another thread than the
/// command, at the same time. An error in it makes the status 1. Also takes end_by_itself() back.
void set_last_will(std::function<void()> will);
/// Takes the last will back at the end of its scope, before what the will uses is destroyed.
struct LastWillScope {
  LastWillScope() = default;
  ~LastWillScope() { set_last_will({}); }
  LastWillScope(const LastWillScope&) = delete;
  LastWillScope& operator=(const LastWillScope&) = delete;
};
/// From now on run_watched does not end the command: it is saving what a signal must not lose.
void end_by_itself();
/// For writers of models, which report the share they have done: false once a signal came. At 1 the model becomes
/// visible, so from then on the command ends by itself.
bool may_go_on(double done);
/// Writes all of `text`; false where writing fails, or where a signal came and nobody reads (errno is EINTR then).
bool write_all(int descriptor, std::string_view text);
/// Waits until `descriptor` can be read, or has ended; false when a signal is to be taken first, however early it came.
bool wait_readable(int descriptor);
/// From now on a page of a mapped file that cannot be read ends the process with a line on standard error, which names
/// the file, and status 1, and until interrupts are caught Ctrl-C, SIGTERM and SIGHUP end it with a line and status
/// 130.
void report_signals();
/// The step of training that the line names from now on; 0: none.
void set_step(int64_t step);
/// For a command that goes on after Ctrl-C: how often it was pressed since this was last asked. SIGTERM counts as all
/// of the patience.
int take_interrupts();

}  // namespace carousel::cli
