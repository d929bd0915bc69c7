// SPDX-License-Identifier: Apache-2.0
// What is in the folder of a run before and after something that is none.
#include "carousel/cli/left_as_found.h"

#include <algorithm>
#include <system_error>

#include "carousel/core/files.h"

namespace carousel::cli {

namespace fs = std::filesystem;

LeftAsFound::LeftAsFound(const std::string& out) : out_(out), cache_(out + "/cache") {
  for (fs::path folder = cache_; !folder.empty() && !file_exists(folder); folder = folder.parent_path()) {
    missing_.push_back(folder);
  }
}

void LeftAsFound::begin() {
  lock_.emplace(out_);
  if (is_folder(cache_)) caches_ = names_in(cache_);
  set_last_will([this] { restore(); });  // on another thread, and from then on this one is not let in here
}

void LeftAsFound::restore() {
  std::error_code ignored;  // what cannot be removed stays
  for (const fs::directory_entry& entry : fs::directory_iterator(cache_, ignored)) {
    if (!lock_) break;  // they are another run's
    const std::string name = entry.path().filename();
    if (std::find(caches_.begin(), caches_.end(), name) == caches_.end()) fs::remove(entry.path(), ignored);
  }
  lock_.reset();
  for (const fs::path& folder : missing_) fs::remove(folder, ignored);  // removes it only if it is empty
}

LeftAsFound::~LeftAsFound() {
  set_last_will({});  // waits for the end of the process where the will is being done
  restore();
}

}  // namespace carousel::cli
