// SPDX-License-Identifier: Apache-2.0
// Objects compiled for AVX2, AVX-512 and NEON with dot products may define no weak symbol outside their own namespace:
// the linker keeps one copy of each, and an AVX-512 copy of a shared inline function would crash an older machine.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

namespace carousel {
namespace {

/// Lines that `command` prints; empty if it fails.
std::vector<std::string> lines_of(const std::string& command) {
  std::vector<std::string> lines;
  FILE* const pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return lines;
  std::string line;
  for (int c = std::fgetc(pipe); c != EOF; c = std::fgetc(pipe)) {
    if (c == '\n') {
      lines.push_back(line);
      line.clear();
    } else {
      line += static_cast<char>(c);
    }
  }
  return ::pclose(pipe) == 0 ? lines : std::vector<std::string>();
}

void expect_own_symbols(const std::string& isa) {
  const std::filesystem::path folder =
      std::filesystem::path(CAROUSEL_BINARY_DIR) / "CMakeFiles" / ("carousel_" + isa + ".dir");
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no objects for " << isa;
  int objects = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().extension() != ".o") continue;
    const std::vector<std::string> lines = lines_of(CAROUSEL_NM " -C '" + entry.path().string() + "' 2>/dev/null");
    if (lines.empty()) GTEST_SKIP() << "nm cannot read " << entry.path();
    ++objects;
    for (const std::string& line : lines) {
      // "<16 digits or blanks> <type> <name>"; W, V and u are the types the linker merges.
      if (line.size() < 20 || (line[17] != 'W' && line[17] != 'V' && line[17] != 'u') || line[0] == ' ') continue;
      EXPECT_NE(line.find("carousel::cpu::" + isa + "::"), std::string::npos)
          << entry.path().filename() << " shares " << line.substr(19);
    }
  }
  EXPECT_GT(objects, 0);
}

bool plain_optimised_build() {
#if !defined(NDEBUG) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  return false;
#else
  return true;
#endif
#else
  return true;
#endif
}

TEST(IsaSymbols, Avx2ObjectsShareNothing) {
  if (!plain_optimised_build()) GTEST_SKIP() << "inline functions stay out of line in this build";
  expect_own_symbols("avx2");
}

TEST(IsaSymbols, Avx512ObjectsShareNothing) {
  if (!plain_optimised_build()) GTEST_SKIP() << "inline functions stay out of line in this build";
  expect_own_symbols("avx512");
}

TEST(IsaSymbols, NeonDotprodObjectsShareNothing) {
  if (!plain_optimised_build()) GTEST_SKIP() << "inline functions stay out of line in this build";
  expect_own_symbols("neon_dotprod");
}

// The shared library is made of the same objects; it may not offer the process anything but its own namespace.
TEST(IsaSymbols, TheSharedLibraryDefinesItsOwnNamespaceOnly) {
  const std::string library = CAROUSEL_BINARY_DIR "/libcarousel.so";
  if (!std::filesystem::exists(library)) GTEST_SKIP() << "built without it";
  if (!plain_optimised_build()) GTEST_SKIP() << "sanitizers add symbols";
  const std::vector<std::string> lines = lines_of(CAROUSEL_NM " -DC --defined-only '" + library + "' 2>/dev/null");
  if (lines.empty()) GTEST_SKIP() << "nm cannot read " << library;
  int own = 0;
  for (const std::string& line : lines) {
    if (line.size() < 20 || std::string("TBDR").find(line[17]) == std::string::npos) continue;
    EXPECT_NE(line.find("carousel::"), std::string::npos) << "defines " << line.substr(19);
    ++own;
  }
  EXPECT_GT(own, 100);
}

}  // namespace
}  // namespace carousel
