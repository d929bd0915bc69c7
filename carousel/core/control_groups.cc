// SPDX-License-Identifier: Apache-2.0
// Reads the limits of control groups, version 1 and 2, from their files.
#include "carousel/core/control_groups.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

namespace carousel {
namespace {

constexpr const char* kMount = "/sys/fs/cgroup";
constexpr double kNone = std::numeric_limits<double>::infinity();

double ratio(double quota, double period) { return quota > 0 && period > 0 ? quota / period : kNone; }

double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream max(folder + "/cpu.max"); max >> quota >> period) return ratio(quota, period);  // "max": none
  std::ifstream cfs_quota(folder + "/cpu.cfs_quota_us"), cfs_period(folder + "/cpu.cfs_period_us");
  if (cfs_quota >> quota && cfs_period >> period) return ratio(quota, period);  // -1: none
  return kNone;
}

/// Pages of files, from memory.stat: the figures of `active` and `inactive`.
double file_bytes(const std::string& folder, const std::string& active, const std::string& inactive) {
  double sum = 0, bytes = 0;
  std::ifstream stat(folder + "/memory.stat");
  for (std::string key; stat >> key >> bytes;) sum += key == active || key == inactive ? bytes : 0;
  return sum;
}

double memory_left_in(const std::string& folder) {
  double limit = 0, used = 0;
  if (std::ifstream max(folder + "/memory.max"); max >> limit) {  // "max": none
    if (!(std::ifstream(folder + "/memory.current") >> used)) return limit;
    return std::max(0.0, limit - used + file_bytes(folder, "active_file", "inactive_file"));
  }
  std::ifstream old_limit(folder + "/memory.limit_in_bytes"), old_used(folder + "/memory.usage_in_bytes");
  if (old_limit >> limit && old_used >> used) {  // none: a number no machine has
    return std::max(0.0, limit - used + file_bytes(folder, "total_active_file", "total_inactive_file"));
  }
  return kNone;
}

using Limit = double (*)(const std::string& folder);

/// Of `path` and every group above it. In a container the mount may be the group itself, the path one of outside.
double least_up_from(const std::string& mount, std::string path, Limit limit) {
  double least = limit(mount);
  for (; !path.empty() && path != "/"; path.resize(path.rfind('/'))) least = std::min(least, limit(mount + path));
  return least;
}

double least(const std::string& groups, const std::string& mount, const std::string& controller, Limit limit) {
  double least = kNone;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // "0::/a/b" or "4:cpu,cpuacct:/a/b"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos || second + 1 >= line.size() || line[second + 1] != '/') continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (path.find("/..") != path.npos) continue;
    if (controllers.empty()) least = std::min(least, least_up_from(mount, path, limit));
    if (("," + controllers + ",").find("," + controller + ",") == std::string::npos) continue;
    for (const std::string& name : {controllers, controller}) {
      least = std::min(least, least_up_from(mount + "/" + name, path, limit));
    }
  }
  return least;
}

std::string own_groups() {
  std::ifstream file("/proc/self/cgroup");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace

double cpu_quota() { return cpu_quota(own_groups(), kMount); }
double cpu_quota(const std::string& groups, const std::string& mount) { return least(groups, mount, "cpu", quota_of); }

double memory_left() { return memory_left(own_groups(), kMount); }
double memory_left(const std::string& groups, const std::string& mount) {
  return least(groups, mount, "memory", memory_left_in);
}

}  // namespace carousel
