// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The rename would put a file in the place of a device, a pipe or a folder.
void check_replaceable(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    fail(ErrorKind::kIo, "{}: exists and is no regular file, expected one or none to write", path);
  }
}

// A new file beside `path`: on the same file system, so that the rename is atomic. The process id and a count keep two
// writers of one path apart.
int open_temporary(const std::string& path, std::string* temporary) {
  for (int attempt = 0;; ++attempt) {
    *temporary = fmt::format("{}.{}-{}.tmp", path, ::getpid(), attempt);
    const int fd = ::open(temporary->c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return fd;
    if (errno != EEXIST || attempt == 1000) {
      fail(ErrorKind::kIo, "{}: cannot create: {}", path, std::strerror(errno));
    }
  }
}

// The rename itself survives a power cut only once the folder is flushed. Some file systems cannot; that is no error.
void flush_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const int unsupported = ::fsync(fd);
  ::close(fd);
}

}  // namespace

NewFile::NewFile(const std::string& path) : path_(path) {
  check_replaceable(path);
  fd_ = open_temporary(path, &temporary_);
}

NewFile::~NewFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void NewFile::put(const void* bytes, size_t size_bytes, size_t offset_bytes) {
  const auto* next = static_cast<const char*>(bytes);
  while (size_bytes > 0) {
    const ssize_t count = ::pwrite(fd_, next, size_bytes, static_cast<off_t>(offset_bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(ErrorKind::kIo, "{}: cannot write: {}", path_, std::strerror(count < 0 ? errno : ENOSPC));
    next += count;
    size_bytes -= static_cast<size_t>(count);
    offset_bytes += static_cast<size_t>(count);
  }
}

void NewFile::finish() {
  const bool flushed = ::fsync(fd_) == 0;
  const int flush_error = errno;
  const bool closed = ::close(fd_) == 0;
  fd_ = -1;
  if (!flushed || !closed) {
    fail(ErrorKind::kIo, "{}: cannot write: {}", path_, std::strerror(flushed ? errno : flush_error));
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail(ErrorKind::kIo, "{}: cannot rename from {}: {}", path_, temporary_, std::strerror(errno));
  }
  temporary_.clear();
  flush_folder(folder_of(path_));
}

NewFolder::NewFolder(const std::string& path) : path_(path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && (!fs::is_directory(status) || !fs::is_empty(path, error))) {
    fail(ErrorKind::kIo, "{}: exists and is not an empty folder", path);
  }
  error.clear();
  made_ = fs::create_directories(path, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot create: {}", path, error.message());
}

NewFolder::~NewFolder() {
  namespace fs = std::filesystem;
  if (kept_) return;
  std::error_code ignored;
  for (const std::string& file : files_) fs::remove(file, ignored);
  if (made_) fs::remove(path_, ignored);  // an empty one
}

std::string NewFolder::file(const std::string& name) {
  files_.push_back(path_ + "/" + name);
  return files_.back();
}

}  // namespace carousel::formats
