// SPDX-License-Identifier: Apache-2.0
// `ulimit -s 64`: commands run on threads whose stacks do not depend on it.
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

Ran run_small(const std::string& arguments, const std::string& input = "") {
  // The limit is set in the shell that run_carousel starts, which then becomes the binary.
  const Scratch scratch;
  write_file(scratch / "in", input);
  const std::string command = "ulimit -s 64; exec " CAROUSEL_RUN_DIR "/carousel " + arguments + " <" +
                              (scratch / "in") + " >" + (scratch / "out") + " 2>" + (scratch / "err");
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(scratch / "out"), read_file(scratch / "err")};
}

TEST(SmallStack, IsEnoughForEveryCommand) {
  if (kSanitized || kEmulated) GTEST_SKIP() << "what instruments or emulates the program needs more";
  const Scratch scratch;
  const std::string stories = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  const std::string mixed = init_model(scratch, kTinyMixed);
  write_expected(mixed, 30);
  std::string text;
  for (int i = 0; i < 300; ++i) text += "Once upon a time there was a cat. ";
  write_file(scratch / "text", text);
  const std::string file = scratch / "text", config = scratch / "config.json";
  const Scratch regressor;
  const std::string cfc = init_model(regressor, R"({"model_type": "cfc", "input_size": 2, "units": 7,
    "mixed_memory": true})");
  const std::string commands[] = {
      "info " + stories,
      "info " + stories + " --json",
      "generate " + stories + " -t 3 -n 20 -f " + file,
      "generate " + stories + " -t 3 -n 4 --weights q8 -p Once",
      "generate " + mixed + " -t 3 -n 4 --profile torch-bf16 -p Once",
      "chat " + stories + " --plain -n 5 -t 3",
      "eval " + stories + " -t 3 --text " + file,
      "bench " + mixed + " -t 3 -p 32 -n 8 -r 2",
      "verify " + mixed + " -t 3",
      "quantize " + mixed + " -t 3 --type q8 --out " + (scratch / "q8"),
      "quantize " + mixed + " -t 3 --type q4 --out " + (scratch / "q4.gguf"),
      "convert " + stories + " -t 3 --out " + (scratch / "stories.gguf"),
      "convert " + (scratch / "stories.gguf") + " -t 3 --out " + (scratch / "back"),
      "init " + config + " --out " + (scratch / "fresh"),
      "predict " + cfc + " -t 3",
      "tokenize " + stories,
      "compare " + stories + " -t 3 --b torch-bf16 -p 'Once upon a time'",
  };
  for (const std::string& command : commands) {
    const bool rows = command.starts_with("predict");
    const Ran ran = run_small(command, rows ? "1,2\n3,4\n" : "Once upon a time\n");
    EXPECT_EQ(ran.status, 0) << command << "\n" << ran.err;
  }
}

// Nesting as deep as files may have it.
TEST(SmallStack, IsEnoughForNestedFiles) {
  if (kSanitized || kEmulated) GTEST_SKIP() << "what instruments or emulates the program needs more";
  const Scratch scratch;
  for (const auto& [open, close, name] :
       {std::tuple("[", "]", "config.json"), std::tuple("{\"a\":", "}", "config.json"),
        std::tuple("[", "]", "config.yaml"), std::tuple("- ", "", "config.yaml")}) {
    std::string text = std::string(name) == "config.json" ? "{\"a\": " : "a: ";
    for (int i = 0; i < 100'000; ++i) text += open;
    text += "1";
    for (int i = 0; i < 100'000; ++i) text += close;
    write_file(scratch / name, text + (std::string(name) == "config.json" ? "}" : "\n"));
    const Ran ran = run_small("info " + (scratch / name));
    EXPECT_EQ(ran.status, 1) << ran.err;
    EXPECT_NE(ran.err.find("carousel: error: "), std::string::npos) << ran.err;
  }
}

}  // namespace
}  // namespace carousel::cli
