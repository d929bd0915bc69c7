// SPDX-License-Identifier: Apache-2.0
// `carousel plot`: logs become a picture, wrong ones one line.
#include "tests/cli/run_command.h"

namespace carousel::cli {
namespace {

TEST(Plot, WritesThePicture) {
  const Scratch scratch;
  write_file(scratch / "log.jsonl", "{\"step\": 1, \"loss\": 3.5}\n{\"step\": 2, \"loss\": 2.5}\n{\"step\": 3, \"lo");
  const Ran shown = run_carousel("plot " + scratch.path() + "/");
  EXPECT_EQ(shown.status, 0) << shown.err;
  EXPECT_TRUE(shown.out.starts_with("<svg"));
  EXPECT_TRUE(shown.out.ends_with("</svg>\n"));
  EXPECT_NE(shown.out.find(scratch.path() + " 2.5000"), std::string::npos);
  const Ran written = run_carousel("plot " + scratch.path() + " " + scratch.path() + " -o " + (scratch / "a.svg"));
  EXPECT_EQ(written.status, 0) << written.err;
  EXPECT_EQ(written.out, "");
  EXPECT_TRUE(read_file(scratch / "a.svg").starts_with("<svg"));
}

TEST(Plot, ErrorsAreOneLine) {
  const Scratch scratch;
  write_file(scratch / "log.jsonl", "{\"step\": 1}\nno json\n");
  const Ran ran = run_carousel("plot " + scratch.path());
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("log.jsonl:2: not valid JSON"), std::string::npos) << ran.err;
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1);
  EXPECT_EQ(run_carousel("plot").status, 2);
  EXPECT_EQ(run_carousel("plot " + (scratch / "none")).status, 1);
}

TEST(Plot, WritesOverNoLog) {
  const Scratch scratch;
  const std::string log = scratch / "log.jsonl", text = "{\"step\": 1, \"loss\": 3.5}\n";
  write_file(log, text);
  const Ran ran = run_carousel("plot " + scratch.path() + "/ -o " + log);
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("the input, expected another file"), std::string::npos) << ran.err;
  EXPECT_EQ(read_file(log), text);
}

}  // namespace
}  // namespace carousel::cli
