// SPDX-License-Identifier: Apache-2.0
// --mmap: the same output as without, and what is said when the file is lost while it is in use.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/cli/run_command.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

const std::string kModel = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
const std::string kStory = " -p \"Once upon a time\" -n 12 --temp 0 -t 2";

TEST(Mmap, GeneratesTheSameText) {
  const Ran packed = run_carousel("generate " + kModel + kStory),
            mapped = run_carousel("generate --mmap " + kModel + kStory);
  EXPECT_EQ(packed.status, 0) << packed.err;
  EXPECT_EQ(mapped.status, 0) << mapped.err;
  EXPECT_EQ(mapped.out, packed.out);
  const Ran chat = run_carousel("chat --mmap " + kModel + " -n 12 --temp 0 -t 2", "Once upon a time\n");
  EXPECT_EQ(chat.status, 0) << chat.err;
  EXPECT_EQ("Once upon a time" + chat.out, packed.out);
}

TEST(Mmap, EvaluatesAndPredictsTheSame) {
  const std::string text = " --text " CAROUSEL_SOURCE_DIR "/tests/fixtures/chat/branches.txt -t 2 --json";
  const Ran packed = run_carousel("eval " + kModel + text), mapped = run_carousel("eval --mmap " + kModel + text);
  EXPECT_EQ(mapped.status, 0) << mapped.err;
  EXPECT_EQ(mapped.out, packed.out);
  const std::string circuit = CAROUSEL_SOURCE_DIR "/tests/fixtures/regressors/ncps-ltc-autoncp", row = "1,2,3\n";
  const Ran held = run_carousel("predict " + circuit, row), in_place = run_carousel("predict --mmap " + circuit, row);
  EXPECT_EQ(in_place.status, 0) << in_place.err;
  EXPECT_EQ(in_place.out, held.out);
}

TEST(Mmap, BenchSaysThatItMaps) {
  const Ran ran = run_carousel("bench --mmap " + kModel + " -p 16 -n 4 -r 1 -t 2");
  EXPECT_EQ(ran.status, 0) << ran.err;
  EXPECT_NE(ran.out.find(" mmap"), std::string::npos) << ran.out;
  const Ran random = run_carousel("bench --mmap --random " + kModel + " -p 16 -n 4");
  EXPECT_EQ(random.status, 2) << random.err;
  EXPECT_NE(random.err.find("--random"), std::string::npos) << random.err;
}

// Its pages beyond the new end are gone: the next product reads one.
TEST(Mmap, AFileCutShortWhileInUseIsSaid) {
  const Scratch scratch;
  fs::copy(kModel, scratch / "model");
  const std::string weights = scratch / "model/model.safetensors";
  ASSERT_TRUE(fs::exists(weights));
  const std::string command = "{ " CAROUSEL_RUN_DIR "/carousel generate --mmap " + (scratch / "model") +
                              " -p Once --ignore-eos -n -1 -t 2 2> " + (scratch / "err") + "; echo $? > " +
                              (scratch / "status") + "; } | { head -c 1 > /dev/null; truncate -s 8192 " + weights +
                              "; cat > /dev/null; }";
  ASSERT_EQ(std::system(("bash -c '" + command + "'").c_str()), 0);
  EXPECT_EQ(read_file(scratch / "status"), "1\n");
  EXPECT_NE(read_file(scratch / "err").find("a mapped file became shorter"), std::string::npos)
      << read_file(scratch / "err");
}

}  // namespace
}  // namespace carousel::cli
