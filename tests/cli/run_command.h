// SPDX-License-Identifier: Apache-2.0
// Runs the built binary as a user would, in a folder of its own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/scratch.h"
#include "tests/slow.h"

namespace carousel::cli {

inline std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

inline void write_file(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

struct Ran {
  int status = -1;  // of exit, or -1 when a signal ended it
  std::string out, err;
};

/// `arguments` is shell text: quote what needs it.
inline Ran run_carousel(const std::string& arguments, const std::string& input = "") {
  const Scratch scratch;
  write_file(scratch / "in", input);
  const std::string command = std::string(CAROUSEL_RUN_DIR) + "/carousel " + arguments + " < " + (scratch / "in") +
                              " > " + (scratch / "out") + " 2> " + (scratch / "err");
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(scratch / "out"), read_file(scratch / "err")};
}

/// The same of words, each of which is quoted.
inline Ran run_words(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += "'" + word + "' ";
  return run_carousel(line);
}

/// A folder of reference data beside the sources; tests of it are skipped where it is absent.
inline std::string shared(const std::string& name) { return CAROUSEL_SOURCE_DIR "/../shared/" + name; }
inline bool is_absent(const std::string& path) { return !std::filesystem::exists(path); }

}  // namespace carousel::cli
