// SPDX-License-Identifier: Apache-2.0
// Where commands put files under way.
#pragma once

#include <string>

namespace carousel::cli {

/// A new folder in TMPDIR, or in /tmp, which goes with the object. It is the user's alone.
class ScratchFolder {
 public:
  /// Throws Error(kIo) naming the folder it cannot be made in.
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace carousel::cli
