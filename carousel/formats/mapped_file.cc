// SPDX-License-Identifier: Apache-2.0
// Files mapped by mmap, and the advice that prefetches and releases their pages.
#include "carousel/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "carousel/core/error.h"

namespace carousel::formats {
namespace {

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: a pipe in the place of a file is refused below, not waited for.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(ErrorKind::kIo, "{}: cannot open: {}", path, std::strerror(errno));
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) fail(ErrorKind::kIo, "{}: cannot read its size: {}", path, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(ErrorKind::kInput, "{}: not a regular file", path);

  const std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = path;
  const auto size_bytes = static_cast<size_t>(status.st_size);
  if (size_bytes == 0) return mapped;  // an empty mapping is an error to mmap
  void* pages = ::mmap(nullptr, size_bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (pages == MAP_FAILED) fail(ErrorKind::kIo, "{}: cannot map {} bytes: {}", path, size_bytes, std::strerror(errno));
  mapped->bytes_ = static_cast<const std::byte*>(pages);
  mapped->size_bytes_ = size_bytes;
  return mapped;
}

MappedFile::~MappedFile() {
  if (bytes_ != nullptr) ::munmap(const_cast<std::byte*>(bytes_), size_bytes_);
}

void MappedFile::prefetch(const std::byte* begin, size_t size_bytes) const { advise(begin, size_bytes, MADV_WILLNEED); }
void MappedFile::release(const std::byte* begin, size_t size_bytes) const { advise(begin, size_bytes, MADV_DONTNEED); }

void MappedFile::advise(const std::byte* begin, size_t size_bytes, int advice) const {
  if (size_bytes == 0) return;
  CAROUSEL_ASSERT(bytes_ <= begin && begin + size_bytes <= bytes_ + size_bytes_);
  // The mapping starts on a page, so rounding its offsets down to one stays inside.
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t first = static_cast<size_t>(begin - bytes_) / page * page;
  const size_t last = static_cast<size_t>(begin - bytes_) + size_bytes;
  ::madvise(const_cast<std::byte*>(bytes_) + first, last - first, advice);  // advice: a refusal changes nothing
}

}  // namespace carousel::formats
