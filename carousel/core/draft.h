// SPDX-License-Identifier: Apache-2.0
// A draft is a file under a name that everybody knows, locked while its writer lives. The lock belongs to the open file
// (F_OFD_SETLK), not to the process: two writers in one process exclude each other, and process ids, which the system
// uses again, mean nothing. On a file system without locks an existing draft counts as another writer's. The invariants
// are numbered in draft.cc.
#pragma once

#include <string>

namespace carousel {

class Draft {
 public:
  enum class Taken {
    kYes,      // the draft is ours
    kHeld,     // a living writer has it
    kUnknown,  // the draft exists, and this file system does not tell whether its writer lives
    kRefused,  // errno says why
  };

  Draft() = default;
  ~Draft();  // gives the lock back and leaves the file
  Draft(Draft&& other) noexcept;
  Draft& operator=(Draft&&) = delete;
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  /// Creates and locks `path`, or takes over what a dead writer left there, bytes and all.
  Taken take(const std::string& path);
  /// take() for a draft that exists; where none does, creates nothing and returns kRefused.
  Taken take_left(const std::string& path);
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// Gives the lock back: the draft has its final name, and belongs to nobody any more.
  void let_go();
  /// Unlinks the draft, then gives the lock back.
  void remove();

 private:
  Taken take(const std::string& path, bool create);
  std::string path_;     // the draft's name when it was taken
  int descriptor_ = -1;  // the open, locked file; -1: no draft is held
};

/// Whether a living writer holds the draft at `path`.
bool is_held(const std::string& path);

/// What happens when two runs write one file at the same time.
enum class Rivals {
  kReplace,  // both write, and the last one to finish replaces the other's file: for states
  kRefuse,   // the second one is refused: for models
};

/// ".NAME.partial" beside `path` in slot 0. Further writers of one file use further slots: ".NAME.1.partial" and so on.
std::string draft_name(const std::string& path, int slot);
constexpr int kDraftSlots = 16;
constexpr const char* kDraftEnding = ".partial";

/// Takes an empty draft of the file at `path` and removes the drafts that dead writers left. Throws Error(kIo) where
/// nothing can be created, or where a rival is writing and `rivals` is kRefuse.
void take_draft_of(const std::string& path, Rivals rivals, Draft& draft);
/// The errors of take_draft_of, for writers of other kinds of drafts.
[[noreturn]] void refuse_rival(const std::string& path);
[[noreturn]] void refuse_unknown(const std::string& path, const std::string& draft);

}  // namespace carousel
