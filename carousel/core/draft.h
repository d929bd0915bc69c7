// SPDX-License-Identifier: Apache-2.0
// A file under a name that everybody knows, which is locked while its writer lives. The lock belongs to the open file
// (F_OFD_SETLK), not to the process: two writers in one process exclude each other, and process ids, which are used
// again, mean nothing. Where a file system has no locks, a draft that is there is taken for another writer's.
#pragma once

#include <string>

namespace carousel {

class Draft {
 public:
  enum class Taken {
    kYes,
    kHeld,     // another writer lives
    kUnknown,  // it is there, and this file system does not tell whether its writer lives
    kRefused,  // errno says why
  };

  Draft() = default;
  ~Draft();  // gives the lock back; the file stays
  Draft(Draft&& other) noexcept;
  Draft& operator=(Draft&&) = delete;
  Draft(const Draft&) = delete;
  Draft& operator=(const Draft&) = delete;

  /// Creates and locks `path`, or takes over what a dead writer left there, bytes and all.
  Taken take(const std::string& path);
  /// The same of one that is there; otherwise nothing is created, and kRefused.
  Taken take_left(const std::string& path);
  const std::string& path() const { return path_; }
  int descriptor() const { return descriptor_; }
  /// The draft has its final name: it is nobody's any more.
  void let_go();
  void remove();

 private:
  Taken take(const std::string& path, bool create);
  std::string path_;
  int descriptor_ = -1;
};

/// Whether a living writer holds the draft at `path`.
bool is_held(const std::string& path);

/// What becomes of a file that another run is writing at the same time.
enum class Rivals {
  kReplace,  // the last one to finish stays: of states
  kRefuse,   // one run alone may write it: of models
};

/// ".NAME.partial" beside `path`; in further slots, for further writers of one file, ".NAME.1.partial" and so on.
std::string draft_name(const std::string& path, int slot);
constexpr int kDraftSlots = 16;
constexpr const char* kDraftEnding = ".partial";

/// Takes an empty draft of the file at `path` and removes those that dead writers left. Throws Error(kIo): nothing can
/// be created there, or a rival is refused.
void take_draft_of(const std::string& path, Rivals rivals, Draft& draft);
/// Errors of take_draft_of, also of other kinds of drafts.
[[noreturn]] void refuse_rival(const std::string& path);
[[noreturn]] void refuse_unknown(const std::string& path, const std::string& draft);

}  // namespace carousel
