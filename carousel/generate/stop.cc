// SPDX-License-Identifier: Apache-2.0
// Holds back the end of a text as long as it may become a stop string.
#include "carousel/generate/stop.h"

#include <algorithm>

namespace carousel::generate {

StopScanner::StopScanner(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, "");
  for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
}

/// Length of the longest end of held_ that begins a stop string.
size_t StopScanner::held_prefix() const {
  for (size_t length = std::min(held_.size(), longest_ - 1); length > 0; --length) {
    const std::string_view end = std::string_view(held_).substr(held_.size() - length);
    for (const std::string& stop : stops_) {
      if (stop.size() > length && stop.compare(0, length, end) == 0) return length;
    }
  }
  return 0;
}

bool StopScanner::feed(std::string_view text, std::string& out) {
  if (stops_.empty()) {
    out += text;
    return false;
  }
  held_ += text;
  // By where it ends, not where it begins: the choice then does not depend on how the text was cut into pieces.
  size_t first_end = std::string::npos;
  size_t begin = 0;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (end < first_end || (end == first_end && at < begin)) {
      first_end = end;
      begin = at;
    }
  }
  const bool found = first_end != std::string::npos;
  const size_t released = found ? begin : held_.size() - held_prefix();
  out.append(held_, 0, released);
  if (found) {
    held_.clear();
  } else {
    held_.erase(0, released);
  }
  return found;
}

void StopScanner::flush(std::string& out) {
  out += held_;
  held_.clear();
}

}  // namespace carousel::generate
