// SPDX-License-Identifier: Apache-2.0
// The limits that control groups set for this process, as in a container. Both versions of control groups are read.
#pragma once

#include <string>

namespace carousel {

/// The least limit of the process's groups and of the groups above them, in CPUs' worth of time (2.5); infinity: none
/// is set. Read from cpu.max, or from cpu.cfs_quota_us of the hierarchy with "cpu".
double cpu_quota();
/// The same for a process whose /proc/self/cgroup has the text `groups`, where groups are mounted at `mount`.
double cpu_quota(const std::string& groups, const std::string& mount);

/// Bytes of memory that the process may still take; infinity: no limit is set. A group's limit counts, less what the
/// group uses beside pages of files, which the system gives up first. Read from memory.max, or from
/// memory.limit_in_bytes of the hierarchy with "memory".
double memory_left();
double memory_left(const std::string& groups, const std::string& mount);

}  // namespace carousel
