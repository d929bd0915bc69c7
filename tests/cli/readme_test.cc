// SPDX-License-Identifier: Apache-2.0
// The README's commands, executed: every "$ " line of its console blocks runs in order and prints what stands below it.
// Files the README puts in /tmp go to a folder of the test's own; build/release is the build under test.
#include <vector>

#include "run_command.h"
#include "tests/cli/page_examples.h"

namespace carousel::cli {
namespace {

void run_page(const std::string& page, size_t least) {
  const Scratch scratch;
  const std::vector<Example> found = examples(read_file(CAROUSEL_SOURCE_DIR "/" + page));
  ASSERT_GE(found.size(), least);
  for (const Example& example : found) {
    // A program the README builds lacks the flags that a sanitized library needs, and the processor of an emulated one.
    const bool ours = example.command.starts_with("carousel ");
    if (!ours && (kSanitized || kEmulated)) continue;
    // The build itself may lie in /tmp, so its path comes last.
    const std::string here = replace_all(example.command, "/tmp/", scratch / "");
    const std::string command = "cd " CAROUSEL_SOURCE_DIR " && PATH=" CAROUSEL_RUN_DIR ":$PATH && " +
                                replace_all(here, "build/release", CAROUSEL_BINARY_DIR) + " > " + (scratch / "out") +
                                " 2> " + (scratch / "err");
    EXPECT_EQ(std::system(command.c_str()), 0) << example.command << "\n" << read_file(scratch / "err");
    if (!example.output.empty()) {
      EXPECT_EQ(read_file(scratch / "out"), example.output) << example.command;
    }
  }
}

TEST(Readme, CommandsRunAndPrintWhatItShows) { run_page("README.md", 8); }

TEST(Readme, TheLibraryPageRunsAndShowsTheProgramItCompiles) {
  const std::string page = read_file(CAROUSEL_SOURCE_DIR "/docs/library.md");
  const std::string program = read_file(CAROUSEL_SOURCE_DIR "/tests/install/forks.cc");
  EXPECT_NE(page.find("```cpp\n" + program.substr(program.find("#include")) + "```\n"), std::string::npos);
  run_page("docs/library.md", 3);
}

}  // namespace
}  // namespace carousel::cli
