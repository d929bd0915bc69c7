// SPDX-License-Identifier: Apache-2.0
// Keeps a second run out of a folder. The system drops the lock with the process.
#pragma once

#include <string>

#include "carousel/core/draft.h"

namespace carousel::cli {

class RunLock {
 public:
  /// Throws Error(kInput) where another run is training in the folder `out`, Error(kIo) where nothing can be created.
  explicit RunLock(const std::string& out);
  ~RunLock() { draft_.remove(); }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  Draft draft_;
};

}  // namespace carousel::cli
