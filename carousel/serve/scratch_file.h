// SPDX-License-Identifier: Apache-2.0
// A file under way, in a folder of the system for such.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "carousel/core/error.h"

namespace carousel::serve {

/// A name for a file under way, removed at the end of its scope.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& folder) : path_(folder + "/carousel-XXXXXX") {
    const int descriptor = mkstemp(path_.data());
    if (descriptor < 0) fail(ErrorKind::kIo, "{}: cannot create a file there", folder);
    close(descriptor);
  }
  ~ScratchFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace carousel::serve
