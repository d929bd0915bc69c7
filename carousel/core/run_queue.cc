// SPDX-License-Identifier: Apache-2.0
// Reads Linux's per-thread counts of time on a run queue.
#include "carousel/core/run_queue.h"

#include <filesystem>
#include <fstream>

namespace carousel {

double seconds_waited_for_cores() {
  double nanoseconds = 0;
  std::error_code error;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::ifstream file(thread.path() / "schedstat");  // time on a core, time on a run queue, times it was given a core
    double ran = 0, waited = 0;
    if (file >> ran >> waited) nanoseconds += waited;  // a thread that has just ended has no file
  }
  return nanoseconds * 1e-9;
}

}  // namespace carousel
