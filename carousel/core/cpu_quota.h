// SPDX-License-Identifier: Apache-2.0
// How many CPUs' worth of time the control groups of this process let it have: containers are limited so.
#pragma once

#include <string>

namespace carousel {

/// The smallest limit of the process's groups and of those above them, in CPUs (2.5); infinity: none is set.
///   groups: the text of /proc/self/cgroup   mount: where the groups are mounted, "/sys/fs/cgroup"
/// Both versions of control groups are understood: cpu.max, and cpu.cfs_quota_us of the hierarchy with "cpu".
double cpu_quota(const std::string& groups, const std::string& mount);

}  // namespace carousel
