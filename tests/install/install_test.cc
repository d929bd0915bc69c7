// SPDX-License-Identifier: Apache-2.0
// What `cmake --install` leaves, used as somebody else's build would: a small program is built against the static and
// against the shared library, through CMake and through pkg-config, and continues a text.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/run_command.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

const std::string kSource = CAROUSEL_SOURCE_DIR "/tests/install";
const std::string kBuilt = CAROUSEL_BINARY_DIR;
const std::string kStory = ", there was a little girl named Lily\n";

/// Runs a line of shell; its output, and a failure of the test when it fails.
std::string run(const std::string& line) {
  const Scratch scratch;
  const int status = std::system(("{ " + line + "\n} > " + (scratch / "out") + " 2> " + (scratch / "err")).c_str());
  EXPECT_EQ(status, 0) << line << "\n" << read_file(scratch / "out") << read_file(scratch / "err");
  return read_file(scratch / "out");
}

/// An empty folder in the build's.
std::string stage(const std::string& name) {
  const std::string folder = kBuilt + "/stage/" + name;
  fs::remove_all(folder);
  return folder;
}

void install(const std::string& folder, const std::vector<std::string>& components) {
  for (const std::string& component : components) {
    run(CAROUSEL_CMAKE " --install '" + kBuilt + "' --prefix '" + folder + "' --component " + component);
  }
}

std::string story_of(const std::string& program) {
  return run(program + " '" CAROUSEL_SOURCE_DIR "/models/stories-xlstm'");
}

std::string through_cmake(const std::string& folder, const std::string& flags = "") {
  run(CAROUSEL_CMAKE " -S '" + kSource + "' -B '" + folder + "/build' -G Ninja -DCMAKE_PREFIX_PATH='" + folder +
      "' -DCMAKE_CXX_COMPILER='" CAROUSEL_CXX "' -DCMAKE_CXX_FLAGS='" CAROUSEL_CXX_FLAGS
      "' -DCMAKE_CXX_COMPILER_LAUNCHER='" CAROUSEL_CXX_LAUNCHER "' " +
      flags + " && " CAROUSEL_CMAKE " --build '" + folder + "/build'");
  return story_of("'" + folder + "/build/story'");
}

std::string through_pkg_config(const std::string& folder, const std::string& flags) {
  const std::string program = folder + "/story";
  run("flags=$(PKG_CONFIG_PATH='" + folder + "/" CAROUSEL_LIBDIR "/pkgconfig' " CAROUSEL_PKG_CONFIG " " + flags +
      " --cflags --libs carousel) && " CAROUSEL_CXX " " CAROUSEL_CXX_FLAGS " -std=c++20 '" + kSource +
      "/story.cc' $flags -o '" + program + "'");
  return story_of("LD_LIBRARY_PATH='" + folder + "/" CAROUSEL_LIBDIR "' '" + program + "'");
}

bool is_built(const std::string& library) { return fs::exists(kBuilt + "/" + library); }

TEST(Install, StaticLibraryServesOtherPrograms) {
  const std::string folder = stage("static");
  install(folder, {"development", "static"});
  EXPECT_FALSE(fs::exists(folder + "/" CAROUSEL_LIBDIR "/libcarousel.so"));
  EXPECT_EQ(through_cmake(folder), kStory);
  EXPECT_EQ(through_pkg_config(folder, "--static"), kStory);
}

TEST(Install, SharedLibraryServesOtherPrograms) {
  if (!is_built("libcarousel.so")) GTEST_SKIP() << "built without CAROUSEL_SHARED";
  const std::string folder = stage("shared");
  install(folder, {"development", "shared"});
  EXPECT_FALSE(fs::exists(folder + "/" CAROUSEL_LIBDIR "/libcarousel.a"));
  EXPECT_EQ(through_cmake(folder), kStory);
  EXPECT_EQ(through_pkg_config(folder, ""), kStory);
}

TEST(Install, TheExampleTellsWhatIsWrongInsteadOfAborting) {
  const std::string folder = stage("wrong");
  install(folder, {"development", "static"});
  through_pkg_config(folder, "--static");
  const std::string program = "'" + folder + "/story'";
  EXPECT_EQ(run(program + " /nowhere 2>&1; echo $?"), "story: /nowhere: no such file or folder\n1\n");
  EXPECT_EQ(run(program + " 2>&1; echo $?"), "usage: story MODEL\n2\n");
}

TEST(Install, EverythingIsRelocatable) {
  const std::string root = stage("everything");
  run("DESTDIR='" + root + "/staged' " CAROUSEL_CMAKE " --install '" + kBuilt + "' --prefix /opt/carousel");
  const std::string folder = root + "/moved";
  fs::rename(root + "/staged/opt/carousel", folder);
  EXPECT_EQ(run("'" + folder + "/bin/carousel' --version").rfind("carousel " CAROUSEL_VERSION " (with", 0), 0u);
  const std::string pc = "PKG_CONFIG_PATH='" + folder + "/" CAROUSEL_LIBDIR "/pkgconfig' " CAROUSEL_PKG_CONFIG;
  EXPECT_EQ(run(pc + " --modversion carousel"), CAROUSEL_VERSION "\n");
  const std::string include = fs::path(run(pc + " --variable=includedir carousel")).lexically_normal().string();
  EXPECT_EQ(include, folder + "/include\n");
  for (const std::string& line : {pc + " --libs carousel", pc + " --cflags carousel"}) {
    EXPECT_EQ(run(line).find(kBuilt + "/lib"), std::string::npos) << "names the build";
  }
  // Either library may be asked for, and headers need nothing that is not installed.
  if (is_built("libcarousel.so")) {
    for (const char* kind : {"static", "shared"}) {
      const std::string config =
          run(CAROUSEL_CMAKE " -S '" + kSource + "' -B '" + root + "/" + kind + "' -G Ninja -DCMAKE_PREFIX_PATH='" +
              folder + "' -DSTORY_KIND=" + kind + " -DCMAKE_CXX_COMPILER='" CAROUSEL_CXX "'");
      const std::string plan = read_file(root + "/" + kind + "/build.ninja");
      const std::string library = std::string(kind) == "static" ? "libcarousel.a" : "libcarousel.so";
      EXPECT_NE(plan.find(library), std::string::npos) << config;
    }
  }
  std::string all;
  for (const auto& file : fs::recursive_directory_iterator(folder + "/include")) {
    if (file.path().extension() == ".h") all += "#include <" + fs::relative(file, folder + "/include").string() + ">\n";
  }
  EXPECT_NE(all.find("<carousel/model/load.h>"), std::string::npos);
  for (const char* own : {"carousel/cli/", "carousel/verify/", "carousel/bench/", "carousel/serve/"}) {
    EXPECT_EQ(all.find(own), std::string::npos) << own;
  }
  write_file(root + "/all.cc", all);
  run(CAROUSEL_CXX " -std=c++20 -fsyntax-only -I'" + folder + "/include' '" + root + "/all.cc'");
}

}  // namespace
}  // namespace carousel::cli
