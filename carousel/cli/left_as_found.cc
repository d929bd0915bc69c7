// SPDX-License-Identifier: Apache-2.0
// A command that only looks leaves OUT as it found it.
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
  // The will runs on another thread while this one goes on; set_last_will() in the destructor then waits for the end.
  set_last_will([this] { restore(); });
}

void LeftAsFound::restore() {
  std::error_code ignored, ended;  // what cannot be removed stays
  // Without the lock the caches belong to another run.
  fs::directory_iterator at = lock_ ? fs::directory_iterator(cache_, ended) : fs::directory_iterator();
  for (; !ended && at != fs::directory_iterator(); at.increment(ended)) {
    const std::string name = at->path().filename();
    if (std::find(caches_.begin(), caches_.end(), name) == caches_.end()) fs::remove(at->path(), ignored);
  }
  lock_.reset();
  for (const fs::path& folder : missing_) fs::remove(folder, ignored);  // removes it only if it is empty
}

LeftAsFound::~LeftAsFound() {
  set_last_will({});  // waits for the end of the process where the will is being done
  restore();
}

}  // namespace carousel::cli
