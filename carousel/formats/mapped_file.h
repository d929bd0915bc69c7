// SPDX-License-Identifier: Apache-2.0
// A regular file mapped for reading. A page is read when it is touched, and can be released once its bytes were
// repacked, so loading a model never holds it twice.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace carousel::formats {

/// The size is fixed when the file is opened. If another process truncates the file afterwards, reading a lost page
/// raises SIGBUS, as with any mapping; the command line says so and ends. Replace a model by renaming over it,
/// which leaves open mappings whole.
class MappedFile {
 public:
  /// Follows symbolic links. Throws Error(kIo) when it cannot be opened, Error(kInput) when not a regular file.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {bytes_, size_bytes_}; }

  /// Asks the system to read a part of the mapping ahead.
  void prefetch(const std::byte* begin, size_t size_bytes) const;
  /// Releases every page that the part touches; a later access reads it again.
  void release(const std::byte* begin, size_t size_bytes) const;

 private:
  MappedFile() = default;
  void advise(const std::byte* begin, size_t size_bytes, int advice) const;

  std::string path_;
  const std::byte* bytes_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace carousel::formats
