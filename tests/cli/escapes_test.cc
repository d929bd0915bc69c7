// SPDX-License-Identifier: Apache-2.0
// Escapes in -p, --system and --stop, as llama.cpp's tools read them.
#include "tests/cli/run_command.h"

namespace carousel::cli {
namespace {

const std::string kModel = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";

std::string ids(const std::string& arguments) { return run_carousel("tokenize " + kModel + " " + arguments).out; }

std::string ids_of_file(const std::string& text) {
  const Scratch scratch;
  write_file(scratch / "text", text);
  return ids("-f " + (scratch / "text"));
}

TEST(Escapes, StandForWhatLlamaCppTakesThemFor) {
  EXPECT_EQ(ids(R"(-p 'a\nb\tc\rd\\e\"f'"\'")"), ids_of_file("a\nb\tc\rd\\e\"f'"));
  EXPECT_EQ(ids(R"(-p '\x41\x6a\xC3\xa9')"), ids_of_file("Aj\xC3\xA9"));
  EXPECT_EQ(ids(R"(-p '\q\x4\x\0\')"), ids_of_file("\\q\\x4\\x\\0\\")) << "unknown ones stay";
  EXPECT_EQ(ids(R"(-p '\\n')"), ids_of_file("\\n"));
  EXPECT_EQ(ids(R"(--no-escape -p 'a\nb')"), ids_of_file("a\\nb"));
  EXPECT_EQ(ids_of_file("a\\nb"), ids(R"(-p 'a\\nb')")) << "files are not searched";
}

TEST(Escapes, EveryCommandWithATextTakesThem) {
  const std::string flags = " -n 3 --temp 0 -t 2";
  const std::string literal = run_carousel("generate " + kModel + flags + " -p 'a\nb'").out;
  EXPECT_EQ(run_carousel("generate " + kModel + flags + R"( -p 'a\nb')").out, literal);
  EXPECT_NE(run_carousel("generate " + kModel + flags + R"( --no-escape -p 'a\nb')").out, literal);
  // "Once upon a time, there": the stop text is its comma and space.
  const std::string stopped =
      run_carousel("generate " + kModel + " -n 4 --temp 0 -t 2 -p Once --stop '\\x2c\\x20'").out;
  EXPECT_EQ(stopped, run_carousel("generate " + kModel + " -n 4 --temp 0 -t 2 -p Once --stop ', '").out);
  for (const char* command : {"generate", "tokenize", "compare", "chat"}) {
    EXPECT_NE(run_carousel(std::string(command) + " --help").out.find("--no-escape"), std::string::npos) << command;
  }
}

TEST(Escapes, AnEmptyStopTextIsRefused) {
  const Ran ran = run_carousel("generate " + kModel + " -p a --stop ''");
  EXPECT_EQ(ran.status, 2);
  EXPECT_NE(ran.err.find("--stop: got \"\", expected some text"), std::string::npos) << ran.err;
}

// A message calls an option by the name that was typed.
TEST(TypedNames, AreThoseOfTheMessage) {
  const auto error = [](const std::string& arguments) { return run_carousel(arguments).err; };
  const std::string generate = "generate " + kModel + " ";
  EXPECT_NE(error(generate + "-n many").find("error: -n: got \"many\""), std::string::npos)
      << error(generate + "-n many");
  EXPECT_NE(error(generate + "-nmany").find("error: -n: got"), std::string::npos);
  EXPECT_NE(error(generate + "--n-predict many").find("error: --n-predict: got"), std::string::npos);
  EXPECT_NE(error(generate + "--predict=many").find("error: --predict: got"), std::string::npos);
  EXPECT_NE(error(generate + "-s x").find("error: -s: got"), std::string::npos);
  EXPECT_NE(error(generate + "-p '\\xff'").find("error: -p: byte 0"), std::string::npos)
      << error(generate + "-p '\\xff'");
  EXPECT_NE(error(generate + "--prompt a --file b").find("both --prompt and --file"), std::string::npos);
  EXPECT_NE(error(generate + "-p a -n").find("-n"), std::string::npos);
}

// What a prompt's file may be.
TEST(PromptFiles, MayBePipes) {
  const std::string model = "generate " + kModel + " -n 3 --temp 0 -t 2 ";
  const std::string expected = run_carousel(model + "-p 'Once upon'").out;
  const Scratch scratch;
  write_file(scratch / "text", "Once upon");
  EXPECT_EQ(run_carousel(model + "-f /dev/stdin", "Once upon").out, expected);
  const std::string fifo = scratch / "fifo";
  ASSERT_EQ(std::system(("mkfifo " + fifo + " && (cat " + (scratch / "text") + " > " + fifo + " &)").c_str()), 0);
  EXPECT_EQ(run_carousel(model + "-f " + fifo).out, expected);
  ASSERT_EQ(std::system(("(cat " + (scratch / "text") + " > " + fifo + " &)").c_str()), 0);
  EXPECT_EQ(ids("-f " + fifo), ids("-p 'Once upon'"));
  EXPECT_NE(run_carousel(model + "-f " + kModel).err.find("not a regular file"), std::string::npos);
}

// Where a state may be written.
TEST(StatePaths, FollowLinksAndMayBeThrownAway) {
  const Scratch scratch;
  const std::string model = "generate " + kModel + " -p Once -n 2 --temp 0 -t 2 --save-state ";
  std::filesystem::create_directory(scratch / "there");
  std::filesystem::create_symlink("there/state", scratch / "link");
  for (int i = 0; i < 2; ++i) {  // first to nothing yet, then over what was written
    const Ran ran = run_carousel(model + (scratch / "link"));
    EXPECT_EQ(ran.status, 0) << ran.err;
    EXPECT_TRUE(std::filesystem::is_symlink(scratch / "link"));
    EXPECT_TRUE(std::filesystem::is_regular_file(scratch / "there/state"));
  }
  EXPECT_EQ(run_carousel("generate " + kModel + " -n 1 --load-state " + (scratch / "link")).status, 0);
  write_file(scratch / "text", "no state");
  std::filesystem::create_symlink("text", scratch / "other");
  EXPECT_EQ(run_carousel(model + (scratch / "other")).status, 1);
  EXPECT_EQ(read_file(scratch / "text"), "no state");
  const Ran null = run_carousel(model + "/dev/null");
  EXPECT_EQ(null.status, 0) << null.err;
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
}

}  // namespace
}  // namespace carousel::cli
