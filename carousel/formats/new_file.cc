// SPDX-License-Identifier: Apache-2.0
// Drafts that become files by rename, and folders that are complete once their draft is unlinked. The invariants are
// numbered in new_file.h.
#include "carousel/formats/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "carousel/core/error.h"
#include "carousel/core/files.h"

namespace carousel::formats {
namespace {

namespace fs = std::filesystem;

// Written bytes are sent to the disk from time to time, so that the flush at the end is short.
constexpr size_t kFlushBytes = size_t{64} << 20;
constexpr int kAttempts = 100;
constexpr const char* kFolderDraft = ".carousel.partial";

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Refuses a device, a pipe or a folder, which the rename would replace by a file. Returns whether there is a file.
bool check_replaceable(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return false;
  if (!S_ISREG(status.st_mode)) {
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", path);
  }
  return true;
}

// The rename survives a power cut only once the folder is flushed. Some file systems cannot flush one; that is no
// error.
void flush_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const int unsupported = ::fsync(fd);
  ::close(fd);
}

void flush_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  const bool flushed = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  if (!flushed) fail(ErrorKind::kIo, "{}: cannot write: {}", path, std::strerror(error));
}

void write_at(int fd, const std::string& path, const void* bytes, size_t size_bytes, size_t offset_bytes) {
  const auto* next = static_cast<const char*>(bytes);
  while (size_bytes > 0) {
    const ssize_t count = ::pwrite(fd, next, std::min(size_bytes, kFlushBytes), static_cast<off_t>(offset_bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(ErrorKind::kIo, "{}: cannot write: {}", path, std::strerror(count < 0 ? errno : ENOSPC));
    next += count;
    size_bytes -= static_cast<size_t>(count);
    offset_bytes += static_cast<size_t>(count);
  }
}

}  // namespace

NewFile::NewFile(const std::string& path, Rivals rivals) : path_(path) {
  const bool replaces = check_replaceable(path);
  take_draft_of(path, rivals, draft_);
  if (rivals == Rivals::kReplace || replaces || !file_exists(path)) return;
  draft_.remove();
  fail(ErrorKind::kIo, "{}: another run has just written it; that one was left as it is", path);
}

NewFile::~NewFile() { draft_.remove(); }

void NewFile::put(const void* bytes, size_t size_bytes, size_t offset_bytes) {
  const auto* next = static_cast<const char*>(bytes);
  while (size_bytes > 0) {
    const size_t piece = std::min(size_bytes, kFlushBytes);
    write_at(draft_.descriptor(), path_, next, piece, offset_bytes);
    next += piece;
    size_bytes -= piece;
    offset_bytes += piece;
    unflushed_bytes_ += piece;
    if (unflushed_bytes_ < kFlushBytes) continue;
    // Waits for the writing begun the last time, and begins the next. Errors are reported by the flush at the end.
    ::sync_file_range(draft_.descriptor(), 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE);
    unflushed_bytes_ = 0;
  }
}

void NewFile::finish() {
  if (::fsync(draft_.descriptor()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot write: {}", path_, std::strerror(errno));
  }
  if (::rename(draft_.path().c_str(), path_.c_str()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot rename from {}: {}", path_, draft_.path(), std::strerror(errno));
  }
  draft_.let_go();
  flush_folder(folder_of(path_));
}

std::string FolderDraft::first_line() const { return fmt::format("process {} {}\n", process, made ? "made" : "found"); }

FolderDraft FolderDraft::read(int descriptor) {
  std::string text;
  char chunk[4096];
  for (ssize_t count; (count = ::pread(descriptor, chunk, sizeof chunk, static_cast<off_t>(text.size()))) > 0;) {
    text.append(chunk, static_cast<size_t>(count));
  }
  FolderDraft list;
  std::istringstream lines(text.substr(0, text.rfind('\n') + 1));  // a name that was cut short has no file yet
  std::string line;
  char made[8] = "";
  if (!std::getline(lines, line) || std::sscanf(line.c_str(), "process %ld %7s", &list.process, made) < 1) return list;
  list.made = made == std::string("made");
  while (std::getline(lines, line)) {
    if (!line.empty() && line.find('/') == line.npos && line != "." && line != "..") list.names.push_back(line);
  }
  return list;
}

void FolderDraft::remove_files(const std::string& folder) const {
  for (const std::string& name : names) {
    const std::string path = folder + "/" + name;
    ::unlink(path.c_str());
    for (int slot = 0; slot < kDraftSlots; ++slot) ::unlink(draft_name(path, slot).c_str());
  }
}

namespace {

bool holds_files(const std::string& folder) {
  const std::vector<std::string> names = names_in(folder);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return name != kFolderDraft; });
}

// Makes the folder if it is not there; returns whether it did. Files in it may be the unfinished work of another
// writer.
bool make_folder(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  const bool unfinished = fs::exists(path + "/" + kFolderDraft, error);
  if (fs::exists(status) && (!fs::is_directory(status) || (!unfinished && !fs::is_empty(path, error)))) {
    fail(ErrorKind::kIo, "{}: exists and is not an empty folder", path);
  }
  error.clear();
  const bool made = fs::create_directories(path, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot create: {}", path, error.message());
  return made;
}

}  // namespace

NewFolder::NewFolder(const std::string& path) : path_(path) {
  take_draft();
  try {
    begin_list();
  } catch (...) {  // a full disk, say
    give_up();
    throw;
  }
}

void NewFolder::take_draft() {
  const std::string name = path_ + "/" + kFolderDraft;
  Draft::Taken taken = Draft::Taken::kRefused;
  errno = ENOENT;  // take() gives it too, for a folder that a rival removes in the meantime
  for (int attempt = 0; attempt < kAttempts && taken == Draft::Taken::kRefused && errno == ENOENT; ++attempt) {
    list_.made = make_folder(path_);
    taken = draft_.take(name);
  }
  if (taken == Draft::Taken::kHeld) refuse_rival(path_);
  if (taken == Draft::Taken::kUnknown) refuse_unknown(path_, name);
  if (taken == Draft::Taken::kYes) return;
  const int error = errno;
  if (list_.made) ::rmdir(path_.c_str());
  fail(ErrorKind::kIo, "{}: cannot create: {}", path_, std::strerror(error));
}

void NewFolder::begin_list() {
  const FolderDraft left = FolderDraft::read(draft_.descriptor());
  left.remove_files(path_);
  if (holds_files(path_)) fail(ErrorKind::kIo, "{}: exists and is not an empty folder", path_);
  list_.process = ::getpid();
  list_.made = list_.made || left.made;
  const std::string line = list_.first_line();
  if (::ftruncate(draft_.descriptor(), 0) == 0) {
    write_at(draft_.descriptor(), draft_.path(), line.data(), line.size(), 0);
  }
}

void NewFolder::give_up() {
  list_.remove_files(path_);
  draft_.remove();
  if (list_.made) ::rmdir(path_.c_str());  // removes it only if it is empty
}

NewFolder::~NewFolder() {
  if (draft_.descriptor() >= 0) give_up();  // else it was kept
}

std::string NewFolder::file(const std::string& name) {
  const std::string line = name + "\n";
  struct stat status {};
  if (::fstat(draft_.descriptor(), &status) != 0) status.st_size = 0;
  write_at(draft_.descriptor(), draft_.path(), line.data(), line.size(), static_cast<size_t>(status.st_size));
  // One name on the disk is enough to tell a folder from a model after a power cut.
  if (list_.names.empty() && ::fsync(draft_.descriptor()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot write: {}", draft_.path(), std::strerror(errno));
  }
  list_.names.push_back(name);
  return path_ + "/" + name;
}

void NewFolder::keep() {
  for (const std::string& name : list_.names) {
    if (file_exists(path_ + "/" + name)) flush_file(path_ + "/" + name);
  }
  flush_folder(path_);
  draft_.remove();
  flush_folder(path_);
}

void move_folder(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot rename from {}: {}", to, from, std::strerror(errno));
  }
  flush_folder(folder_of(to));
}

void check_complete(const std::string& folder) {
  const std::string path = folder + "/" + kFolderDraft;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return;
  const FolderDraft list = FolderDraft::read(fd);
  ::close(fd);
  if (list.names.empty() && holds_files(folder)) return;  // its writer is about to find that the folder holds files
  if (is_held(path)) {
    fail(ErrorKind::kInput, "{}: unfinished: process {} is writing it, expected a whole model: wait for its end",
         folder, list.process);
  }
  fail(ErrorKind::kInput,
       "{}: unfinished, written by process {}, which was ended before it was done, expected a whole model: remove the "
       "folder or run again",
       folder, list.process);
}

void abandon_drafts() {
  std::error_code error;
  for (const auto& item : fs::directory_iterator("/proc/self/fd", error)) {
    const fs::path path = fs::read_symlink(item.path(), error);
    const std::string name = path.filename().string();
    if (error || !name.starts_with('.') || !name.ends_with(kDraftEnding)) continue;
    if (name != kFolderDraft) {
      ::unlink(path.c_str());
      continue;
    }
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    const FolderDraft list = FolderDraft::read(fd);
    list.remove_files(path.parent_path().string());
    ::unlink(path.c_str());
    if (list.made) ::rmdir(path.parent_path().c_str());
  }
}

}  // namespace carousel::formats
