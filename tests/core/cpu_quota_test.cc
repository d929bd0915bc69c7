// SPDX-License-Identifier: Apache-2.0
// Limits of control groups, written as the kernel shows them.
#include "carousel/core/cpu_quota.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

namespace carousel {
namespace {

namespace fs = std::filesystem;

class CpuQuota : public testing::Test {
 protected:
  CpuQuota() {
    std::string name = (fs::temp_directory_path() / "carousel-quota-XXXXXX").string();
    mount_ = ::mkdtemp(name.data());
  }
  ~CpuQuota() override { fs::remove_all(mount_); }
  void write(const std::string& file, const std::string& text) {
    fs::create_directories((mount_ / file).parent_path());
    std::ofstream(mount_ / file) << text;
  }
  double quota(const std::string& groups) { return cpu_quota(groups, mount_.string()); }
  fs::path mount_;
};

TEST_F(CpuQuota, TheLeastOfAGroupAndThoseAboveCounts) {
  write("a/cpu.max", "250000 100000\n");
  write("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 2.5);
  write("a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(quota("0::/a/b\n"), 0.5);
  EXPECT_EQ(quota("0::/a\n"), 2.5);
  EXPECT_TRUE(std::isinf(quota("0::/c\n")));
}

TEST_F(CpuQuota, TheOlderHierarchyIsRead) {
  write("cpu,cpuacct/a/cpu.cfs_quota_us", "300000\n");
  write("cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  write("cpu,cpuacct/b/cpu.cfs_quota_us", "-1\n");
  write("cpu,cpuacct/b/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(quota("5:memory:/a\n4:cpu,cpuacct:/a\n0::/\n"), 3);
  EXPECT_TRUE(std::isinf(quota("4:cpu,cpuacct:/b\n")));
}

// In a container the limit is at the mount, and the path is that of the machine.
TEST_F(CpuQuota, AContainersOwnMountCounts) {
  write("cpu.max", "150000 100000\n");
  EXPECT_EQ(quota("0::/docker/0123\n"), 1.5);
  EXPECT_EQ(quota("0::/\n"), 1.5);
}

TEST_F(CpuQuota, WhatIsNotUnderstoodIsNoLimit) {
  for (const char* text : {"", "max", "x y", "-1 100000", "100000 0", "100000"}) {
    write("cpu.max", text);
    EXPECT_TRUE(std::isinf(quota("0::/\n"))) << text;
  }
  for (const char* groups : {"", "\n", "0", "::", "0::", "0::a", "0::/../..\n"})
    EXPECT_TRUE(std::isinf(quota(groups))) << groups;
}

}  // namespace
}  // namespace carousel
