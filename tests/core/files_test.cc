// SPDX-License-Identifier: Apache-2.0
// What the system does not tell is an error with the path and the reason, whoever runs the tests.
#include "carousel/core/files.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "carousel/core/error.h"
#include "tests/scratch.h"

namespace carousel {
namespace {

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(Files, WhatIsThere) {
  const Scratch folder;
  std::ofstream(folder / "b") << "x";
  std::filesystem::create_directory(folder / "a");
  EXPECT_TRUE(file_exists(folder / "b") && file_exists(folder / "a"));
  EXPECT_TRUE(is_folder(folder / "a") && !is_folder(folder / "b"));
  EXPECT_FALSE(file_exists(folder / "c") || is_folder(folder / "c") || file_exists(folder / "b/c") || file_exists(""));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"a", "b"}));
}

TEST(Files, WhatTheSystemDoesNotTell) {
  const Scratch folder;
  const std::string loop = folder / "loop", name = folder / std::string(300, 'a');
  std::filesystem::create_symlink("loop", loop);
  EXPECT_EQ(refusal([&] { file_exists(loop); }), loop + ": cannot open: Too many levels of symbolic links");
  EXPECT_EQ(refusal([&] { is_folder(name); }), name + ": cannot open: File name too long");
  EXPECT_EQ(refusal([&] { names_in(folder / "none"); }),
            (folder / "none") + ": cannot list: No such file or directory");
}

}  // namespace
}  // namespace carousel
