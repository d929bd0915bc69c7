// SPDX-License-Identifier: Apache-2.0
#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

TEST(Tokenize, BytesWithoutATokenizer) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyXlstm);
  const std::string folder = scratch / "";
  EXPECT_EQ(run_carousel("tokenize " + folder + " -p Hi").out, "[72, 105]\n");
  EXPECT_EQ(run_carousel("tokenize " + folder, "Hi\n").out, "[72, 105, 10]\n");
  write_file(scratch / "text", "A");
  EXPECT_EQ(run_carousel("tokenize " + folder + " -f " + (scratch / "text")).out, "[65]\n");
  EXPECT_EQ(run_carousel("tokenize " + folder + " -p ''").out, "[]\n");
  EXPECT_EQ(run_carousel("tokenize --decode " + folder, "[72, 105]").out, "Hi");
  EXPECT_EQ(run_carousel("tokenize " + folder + " -f -", "Hi").out, "[72, 105]\n");
}

TEST(Tokenize, AClosedPipeIsNoError) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyXlstm);
  std::string ids = "[72";
  for (int i = 0; i < 300000; ++i) ids += ",105";  // more than a pipe holds
  write_file(scratch / "ids", ids + "]");
  const std::string command = "{ " CAROUSEL_RUN_DIR "/carousel tokenize --decode " + (scratch / "") + " -f " +
                              (scratch / "ids") + " 2> " + (scratch / "err") + "; echo $? > " + (scratch / "status") +
                              "; } | head -c 1 > /dev/null";
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_EQ(read_file(scratch / "status"), "141\n");
  EXPECT_EQ(read_file(scratch / "err"), "");
}

TEST(Tokenize, BadInputIsNamed) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyXlstm);
  const std::string start = "tokenize --decode " + (scratch / "");
  const Ran beyond = run_carousel(start, "[1, 256]");
  EXPECT_EQ(beyond.status, 1);
  EXPECT_NE(beyond.err.find("got 256, expected an integer from 0 to 255"), std::string::npos) << beyond.err;
  EXPECT_EQ(run_carousel(start, "[1.5]").status, 1);
  EXPECT_EQ(run_carousel(start, "[-1]").status, 1);
  EXPECT_EQ(run_carousel(start, "[18446744073709551615]").status, 1);
  EXPECT_EQ(run_carousel(start, "{}").status, 1);
  EXPECT_EQ(run_carousel(start, "").status, 1);
  EXPECT_EQ(run_carousel(start + " -p '[1]' -f x").status, 2);
  write_file(scratch / "config.json", R"({"model_type": "xlstm", "vocab_size": 300})");
  const Ran missing = run_carousel("tokenize " + (scratch / "") + " -p Hi");
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.err.find("no tokenizer.json"), std::string::npos) << missing.err;
}

class TokenizeModel : public testing::TestWithParam<const char*> {};

TEST_P(TokenizeModel, AgreesWithTheReference) {
  const std::string folder = shared(GetParam());
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  const Json cases = read_json_file(folder + "/tokenizer_expected.json").at("cases");
  const Scratch scratch;
  for (size_t i = 0; i < cases.size(); i += 1 + cases.size() / 12) {  // every case is a test of text/
    const Json& expected = cases[i];
    write_file(scratch / "text", expected.at("text").get<std::string>());
    const std::string read = folder + " -f " + (scratch / "text");
    EXPECT_EQ(parse_json(run_carousel("tokenize " + read).out, "ids"), expected.at("ids"));
    EXPECT_EQ(parse_json(run_carousel("tokenize --no-special " + read).out, "ids"), expected.at("ids_no_special"));
    const std::string ids = expected.at("ids").dump();
    EXPECT_EQ(run_carousel("tokenize --decode " + folder, ids).out, expected.at("decoded").get<std::string>());
    EXPECT_EQ(run_carousel("tokenize --decode --no-special " + folder, ids).out,
              expected.at("decoded_skip_special").get<std::string>());
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, TokenizeModel, testing::Values("models/stories-xlstm", "models/stories15M"));

}  // namespace
}  // namespace carousel::cli
