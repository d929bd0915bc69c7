// SPDX-License-Identifier: Apache-2.0
// What the control groups of this process let it have: containers are limited so. Both versions are understood.
#pragma once

#include <string>

namespace carousel {

/// The least limit of the process's groups and of those above them, in CPUs' worth of time (2.5); infinity: none is
/// set. From cpu.max, and cpu.cfs_quota_us of the hierarchy with "cpu".
double cpu_quota();
/// Of a process whose /proc/self/cgroup has the text `groups`, where groups are mounted at `mount`.
double cpu_quota(const std::string& groups, const std::string& mount);

/// The same in bytes of memory that may still be taken: a group's limit less what it uses beside pages of files, which
/// are given up for it. From memory.max, and memory.limit_in_bytes of the hierarchy with "memory".
double memory_left();
double memory_left(const std::string& groups, const std::string& mount);

}  // namespace carousel
