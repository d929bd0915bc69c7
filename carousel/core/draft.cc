// SPDX-License-Identifier: Apache-2.0
// Drafts: files that say by their lock whether their writer lives.
//
// 1. A draft is taken in this order: open the name, lock the open file, check that the name is still this file. A file
//    that was renamed or removed between open and lock is let go, and the name opened anew.
// 2. The lock is held from take() to let_go() or remove(). The system drops it when the last descriptor of that open
//    file is closed, so also when the process dies; descriptors are closed on exec.
// 3. Only the holder of its lock truncates, renames or unlinks a draft, and it does so before it gives the lock back. A
//    dead writer's draft is taken first, then removed. One exception: who takes over the draft of a folder also removes
//    the drafts of the files on its list (formats/new_file).
// 4. On a file system without locks a draft belongs to who created it (O_EXCL). Nobody takes over one that exists.
#include "carousel/core/draft.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "carousel/core/error.h"

namespace carousel {
namespace {

constexpr int kAttempts = 1000;  // a name that changes hands more often is given up
constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;

enum class Lock { kOurs, kHeld, kUnsupported };

struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

Lock lock(int descriptor) {
  struct flock whole = whole_file();
  if (fcntl(descriptor, F_OFD_SETLK, &whole) == 0) return Lock::kOurs;
  return errno == EAGAIN || errno == EACCES ? Lock::kHeld : Lock::kUnsupported;
}

// Whether `path` still names the open file: its last holder may have renamed or removed it between open() and the lock.
bool still_named(int descriptor, const std::string& path) {
  struct stat here {
  }, there{};
  return ::fstat(descriptor, &here) == 0 && ::lstat(path.c_str(), &there) == 0 && here.st_dev == there.st_dev &&
         here.st_ino == there.st_ino;
}

bool is_regular(int descriptor) {
  struct stat status {};
  return ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
}

}  // namespace

Draft::~Draft() { let_go(); }

Draft::Draft(Draft&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

Draft::Taken Draft::take(const std::string& path) { return take(path, true); }
Draft::Taken Draft::take_left(const std::string& path) { return take(path, false); }

Draft::Taken Draft::take(const std::string& path, bool create) {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    int descriptor = create ? ::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0666) : -1;
    const bool made = descriptor >= 0;
    if (create && !made && errno != EEXIST) return Taken::kRefused;
    if (!made) descriptor = ::open(path.c_str(), kFlags);
    if (descriptor < 0) {
      if (create && errno == ENOENT) continue;
      return Taken::kRefused;
    }
    const bool regular = is_regular(descriptor);
    const Lock got = regular ? lock(descriptor) : Lock::kHeld;
    if (got == Lock::kOurs ? still_named(descriptor, path) : got == Lock::kUnsupported && made) {
      path_ = path;
      descriptor_ = descriptor;
      return Taken::kYes;
    }
    ::close(descriptor);
    errno = EEXIST;
    if (!regular) return Taken::kRefused;
    if (got != Lock::kOurs) return got == Lock::kHeld ? Taken::kHeld : Taken::kUnknown;
    if (!create) return Taken::kRefused;
  }
  errno = EBUSY;
  return Taken::kRefused;
}

void Draft::let_go() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

void Draft::remove() {
  if (descriptor_ >= 0) ::unlink(path_.c_str());
  let_go();
}

bool is_held(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return false;
  struct flock whole = whole_file();
  // Where the file system has no locks, nobody can say that its writer has gone.
  const bool held = fcntl(descriptor, F_OFD_GETLK, &whole) != 0 || whole.l_type != F_UNLCK;
  ::close(descriptor);
  return held;
}

std::string draft_name(const std::string& path, int slot) {
  const size_t name = path.rfind('/') + 1;  // npos + 1 is 0
  const std::string number = slot == 0 ? "" : fmt::format(".{}", slot);
  return fmt::format("{}.{}{}{}", path.substr(0, name), path.substr(name), number, kDraftEnding);
}

void refuse_rival(const std::string& path) {
  fail(ErrorKind::kIo, "{}: another run is writing it, expected one at a time: wait for its end, or write elsewhere",
       path);
}

void refuse_unknown(const std::string& path, const std::string& draft) {
  fail(ErrorKind::kIo,
       "{}: another run is writing it, or was ended in the middle (this file system does not tell), expected no {}: "
       "remove that if no run is",
       path, draft);
}

namespace {

// Removes the drafts of dead writers from all slots but `mine`.
void remove_left_drafts(const std::string& path, int mine) {
  for (int slot = 0; slot < kDraftSlots; ++slot) {
    Draft left;
    if (slot != mine && left.take_left(draft_name(path, slot)) == Draft::Taken::kYes) left.remove();
  }
}

}  // namespace

// Where rivals replace each other, the next slot is tried: what others left in one slot must not cost a state.
void take_draft_of(const std::string& path, Rivals rivals, Draft& draft) {
  int error = EEXIST;
  for (int slot = 0; slot < kDraftSlots; ++slot) {
    const std::string name = draft_name(path, slot);
    const Draft::Taken taken = draft.take(name);
    if (taken == Draft::Taken::kYes) {
      remove_left_drafts(path, slot);
      if (::ftruncate(draft.descriptor(), 0) == 0) return;
      error = errno;
      draft.remove();
      break;
    }
    if (taken == Draft::Taken::kRefused) error = errno;
    if (rivals == Rivals::kReplace) continue;
    if (taken == Draft::Taken::kHeld) refuse_rival(path);
    if (taken == Draft::Taken::kUnknown) refuse_unknown(path, name);
    break;
  }
  fail(ErrorKind::kIo, "{}: cannot create: {}", path, std::strerror(error));
}

}  // namespace carousel
