// SPDX-License-Identifier: Apache-2.0
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

class InitConfig : public testing::TestWithParam<const char*> {};

// A fresh model loads, runs, and computes the same in every way of cutting its sequences.
TEST_P(InitConfig, MakesAModelThatRuns) {
  for (const char* dtype : {"f32", "bf16", "f16"}) {
    const Scratch scratch;
    const std::string folder = init_model(scratch, GetParam(), std::string("--dtype ") + dtype);
    write_expected(folder, 30);
    const Ran verified = run_carousel("verify --strict " + folder);
    EXPECT_EQ(verified.status, 0) << verified.out << verified.err;
    const Ran generated = run_carousel("generate " + folder + " -p abc -n 4 --temp 0 --ignore-eos");
    EXPECT_EQ(generated.status, 0) << generated.err;
    EXPECT_FALSE(generated.out.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, InitConfig, testing::Values(kTinyXlstm, kTinyLfm2, kTinyLlama, kTinyMixed));

TEST(Init, ValuesDependOnTheSeedAlone) {
  const Scratch first, again, other;
  const std::string weights = "/model.safetensors";
  const std::string a = read_file(init_model(first, kTinyXlstm, "--seed 7") + weights);
  const std::string b = read_file(init_model(again, kTinyXlstm, "--seed 7 --dtype f32") + weights);
  const std::string c = read_file(init_model(other, kTinyXlstm, "--seed 8") + weights);
  EXPECT_FALSE(a.empty());
  EXPECT_EQ(a, b);
  EXPECT_NE(a, c);
}

TEST(Init, LeavesAFullFolderAlone) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  const std::string before = read_file(folder + "/model.safetensors");
  const Ran ran = run_carousel("init " + (scratch / "config.json") + " --seed 9 --out " + folder);
  EXPECT_EQ(ran.status, 1);
  EXPECT_NE(ran.err.find("exists and is not an empty folder"), std::string::npos) << ran.err;
  EXPECT_EQ(read_file(folder + "/model.safetensors"), before);
}

TEST(Init, BadOptionsAreNamed) {
  const Scratch scratch;
  write_file(scratch / "config.json", kTinyXlstm);
  const std::string start = "init " + (scratch / "config.json") + " --out " + (scratch / "out");
  const Ran dtype = run_carousel(start + " --dtype int8");
  EXPECT_EQ(dtype.status, 2);
  EXPECT_NE(dtype.err.find("--dtype: got \"int8\", expected one of f32, bf16, f16"), std::string::npos) << dtype.err;
  const Ran seed = run_carousel(start + " --seed -1");
  EXPECT_EQ(seed.status, 2);
  EXPECT_NE(seed.err.find("--seed: got \"-1\", expected an integer from 0"), std::string::npos) << seed.err;
  EXPECT_EQ(run_carousel("init " + (scratch / "config.json")).status, 2) << "--out is required";
  EXPECT_TRUE(is_absent(scratch / "out"));
}

}  // namespace
}  // namespace carousel::cli
