// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/cpu_quota.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

namespace carousel {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

double ratio(double quota, double period) { return quota > 0 && period > 0 ? quota / period : kNone; }

double quota_of(const std::string& folder) {
  double quota = 0, period = 0;
  if (std::ifstream max(folder + "/cpu.max"); max >> quota >> period) return ratio(quota, period);  // "max": none
  std::ifstream cfs_quota(folder + "/cpu.cfs_quota_us"), cfs_period(folder + "/cpu.cfs_period_us");
  if (cfs_quota >> quota && cfs_period >> period) return ratio(quota, period);  // -1: none
  return kNone;
}

/// Of `path` and every group above it. In a container the mount may be the group itself, the path one of outside.
double quota_up_from(const std::string& mount, std::string path) {
  double least = quota_of(mount);
  for (; !path.empty() && path != "/"; path.resize(path.rfind('/'))) least = std::min(least, quota_of(mount + path));
  return least;
}

}  // namespace

double cpu_quota(const std::string& groups, const std::string& mount) {
  double least = kNone;
  std::istringstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // "0::/a/b" or "4:cpu,cpuacct:/a/b"
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos || second + 1 >= line.size() || line[second + 1] != '/') continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (path.find("/..") != path.npos) continue;
    if (controllers.empty()) least = std::min(least, quota_up_from(mount, path));
    const bool cpu = ("," + controllers + ",").find(",cpu,") != std::string::npos;
    if (cpu) {
      least = std::min({least, quota_up_from(mount + "/" + controllers, path), quota_up_from(mount + "/cpu", path)});
    }
  }
  return least;
}

}  // namespace carousel
