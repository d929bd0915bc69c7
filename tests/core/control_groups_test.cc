// SPDX-License-Identifier: Apache-2.0
// Limits of control groups, written as the kernel shows them.
#include "carousel/core/control_groups.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/scratch.h"

namespace carousel {
namespace {

namespace fs = std::filesystem;

class ControlGroups : public testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    fs::create_directories(fs::path(mount_ / file).parent_path());
    std::ofstream(mount_ / file) << text;
  }
  void write_times(const std::string& folder, const std::string& quota, const std::string& period) {
    write(folder + "/cpu.cfs_quota_us", quota + "\n");
    write(folder + "/cpu.cfs_period_us", period + "\n");
  }
  double quota(const std::string& groups) { return cpu_quota(groups, mount_.path()); }
  double memory(const std::string& groups) { return memory_left(groups, mount_.path()); }
  const Scratch mount_;
};

TEST_F(ControlGroups, TheLeastOfAGroupAndThoseAboveCounts) {
  write("a/cpu.max", "250000 100000\n");
  write("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 2.5);
  write("a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 0.5);
  EXPECT_EQ(quota("0::/a\n"), 2.5);
  EXPECT_TRUE(std::isinf(quota("0::/c\n")));
}

TEST_F(ControlGroups, TheOlderHierarchyIsRead) {
  write_times("cpu,cpuacct/a", "300000", "100000");
  write_times("cpu,cpuacct/b", "-1", "100000");
  EXPECT_EQ(quota("5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n"), 3);
  EXPECT_TRUE(std::isinf(quota("4:cpu,cpuacct:/b\n")));
}

// In a container the limit is at the mount, and the path is that of the machine.
TEST_F(ControlGroups, AContainersOwnMountCounts) {
  write("cpu.max", "150000 100000\n");
  EXPECT_EQ(quota("0::/docker/0123\n"), 1.5);
  EXPECT_EQ(quota("0::/\n"), 1.5);
}

TEST_F(ControlGroups, WhatIsNotUnderstoodIsNoLimit) {
  for (const char* text : {"", "max", "x y", "-1 100000", "100000 0", "100000"}) {
    write("cpu.max", text);
    EXPECT_TRUE(std::isinf(quota("0::/\n"))) << text;
  }
  for (const char* groups : {"", "\n", "0", "::", "0::", "0::a", "0::/../..\n"})
    EXPECT_TRUE(std::isinf(quota(groups))) << groups;
}

TEST_F(ControlGroups, MemoryIsWhatIsNotUsedYetOrHoldsFiles) {
  write("a/memory.max", "1000000\n");
  EXPECT_EQ(memory("0::/a\n"), 1000000);
  write("a/memory.current", "700000\n");
  EXPECT_EQ(memory("0::/a/b\n"), 300000);
  write("a/memory.stat", "anon 100000\nfile 590000\ninactive_file 400000\nactive_file 50000\n");
  EXPECT_EQ(memory("0::/a\n"), 750000);
  write("a/b/memory.max", "max\n");
  EXPECT_EQ(memory("0::/a/b\n"), 750000);
  write("a/memory.current", "1600000\n");
  EXPECT_EQ(memory("0::/a\n"), 0);
  EXPECT_TRUE(std::isinf(memory("0::/c\n")));
}

TEST_F(ControlGroups, MemoryOfTheOlderHierarchy) {
  write("memory/a/memory.limit_in_bytes", "1000000\n");
  write("memory/a/memory.usage_in_bytes", "800000\n");
  write("memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\ntotal_active_file 200000\n");
  EXPECT_EQ(memory("5:memory:/a\n4:cpu,cpuacct:/a\n"), 500000);
  EXPECT_TRUE(std::isinf(memory("4:cpu,cpuacct:/a\n")));
}

}  // namespace
}  // namespace carousel
