// SPDX-License-Identifier: Apache-2.0
// A file that appears under its name complete or not at all: written beside it under a temporary name, flushed to the
// disk, then renamed over it. And a folder likewise.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace carousel::formats {

class NewFile {
 public:
  /// Throws Error(kIo): `path` is something else than a regular file, or nothing can be created beside it.
  explicit NewFile(const std::string& path);
  ~NewFile();  // without finish(): nothing is left
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  const std::string& path() const { return path_; }
  /// At any place, in any order; what is skipped reads as zeros. Throws Error(kIo).
  void put(const void* bytes, size_t size_bytes, size_t offset_bytes);
  /// Flushes and renames. Throws Error(kIo).
  void finish();

 private:
  std::string path_;
  std::string temporary_;
  int fd_ = -1;
};

/// A folder that goes again, with the files that were put into it, unless it is kept. What others put there stays.
class NewFolder {
 public:
  /// Throws Error(kIo): `path` exists and is not an empty folder, or cannot be created.
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  /// The path of a file in it that the caller is about to write.
  std::string file(const std::string& name);
  void keep() { kept_ = true; }

 private:
  std::string path_;
  std::vector<std::string> files_;
  bool made_ = false;
  bool kept_ = false;
};

}  // namespace carousel::formats
