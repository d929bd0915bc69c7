// SPDX-License-Identifier: Apache-2.0
// Keeps the promise of --dry-run and --find-lr: they leave nothing in OUT that was not there, also when one signal ends
// them.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "carousel/cli/run_lock.h"
#include "carousel/cli/signals.h"

namespace carousel::cli {

/// Restores OUT at the end of its scope: removes caches and folders that were not there.
class LeftAsFound {
 public:
  /// Before OUT is made. Signals are caught.
  explicit LeftAsFound(const std::string& out);
  /// Locks OUT, which is there, so that no other run writes to the cache, and notes what is in it. From then on a
  /// signal that the command does not heed in time ends it without a trace. Throws as RunLock does.
  void begin();
  ~LeftAsFound();
  LeftAsFound(const LeftAsFound&) = delete;
  LeftAsFound& operator=(const LeftAsFound&) = delete;

 private:
  void restore();

  std::string out_, cache_;
  std::vector<std::string> caches_;  // the names in it
  std::vector<std::filesystem::path>
      missing_;                  // the cache's folder and those above it that were not there, deepest first
  std::optional<RunLock> lock_;  // from begin() on
};

}  // namespace carousel::cli
