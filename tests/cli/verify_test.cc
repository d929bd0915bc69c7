// SPDX-License-Identifier: Apache-2.0
#include <limits>

#include "carousel/core/json.h"
#include "tests/cli/tiny_model.h"

namespace carousel::cli {
namespace {

/// The tensors that `verify --json` reports for a case, all of which are to agree.
Json tensors_of(const std::string& arguments) {
  const Ran ran = run_carousel("verify --json " + arguments);
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
  const Json tensors = parse_json(ran.out, "verify").at(0).at("tensors");
  for (const Json& tensor : tensors) EXPECT_EQ(tensor.at("status"), "ok") << tensor;
  return tensors;
}

class VerifyCase : public testing::TestWithParam<const char*> {};

TEST_P(VerifyCase, AgreesWithTheReference) {
  const std::string folder = shared(GetParam());
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  if ((kSanitized || kEmulated) && folder.find("models/") != folder.npos)
    GTEST_SKIP() << "minutes of what the small cases run too";
  EXPECT_GE(tensors_of(folder).size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(Shared, VerifyCase,
                         testing::Values("golden/hf-lfm2moe-published", "models/stories15M", "models/stories-xlstm"));

// These cases hold losses, gradients and steps of AdamW or Muon too. No tensor of theirs may be skipped.
class VerifyTraining : public testing::TestWithParam<const char*> {};

TEST_P(VerifyTraining, GradientsAndStepsAgreeWithTheReference) {
  const std::string folder = shared(GetParam());
  if (is_absent(folder)) GTEST_SKIP() << folder << " is absent";
  int64_t trained = 0;
  for (const Json& tensor : tensors_of("--strict " + folder)) {
    const std::string name = tensor.at("name");
    for (const char* prefix : {"grad.", "adamw.", "muon"}) trained += name.starts_with(prefix) ? 1 : 0;
  }
  EXPECT_GE(trained, 10);
}

INSTANTIATE_TEST_SUITE_P(Shared, VerifyTraining,
                         testing::Values("golden/muon-xlstm", "golden/xlstm-lm-bias", "golden/xlstm-lm-mixed",
                                         "golden/xlstm-lm-mlstm-only", "golden/xlstm-lm-slstm-only",
                                         "golden/tirex-tiny-train", "golden/hf-xlstm-single", "golden/hf-xlstm-fused",
                                         "golden/hf-xlstm-chunk16-bias", "golden/hf-xlstm-onehead-qk1",
                                         "golden/hf-lfm2-tied", "golden/hf-lfm2-untied-convbias", "golden/hf-llama",
                                         "golden/hf-lfm2moe-tiny"));

// Made by tools/make_xlstm_lm_fixture.py and tools/make_ncps_fixture.py with the packages themselves.
TEST(Verify, FixturesOfThePackagesAgree) {
  for (const char* name : {"models/xlstm-lm-mixed", "regressors/ncps-cfc-wired", "regressors/ncps-ltc-autoncp"}) {
    const Ran ran = run_carousel("verify --strict " CAROUSEL_SOURCE_DIR "/tests/fixtures/" + std::string(name));
    EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
    EXPECT_NE(ran.out.find(" 0 FAIL, 0 skip"), std::string::npos) << ran.out;
  }
}

TEST(Verify, LibraryAgreesWithItself) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyMixed);
  write_expected(folder, 40);
  const Ran ran = run_carousel("verify " + folder + " --strict");
  EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
  EXPECT_NE(ran.out.find("logits.40"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("1 ok, 0 FAIL, 0 skip"), std::string::npos) << ran.out;
}

TEST(Verify, RoundedWeightsAreHeldToAWiderBound) {
  const std::string fixture = CAROUSEL_SOURCE_DIR "/tests/fixtures/models/xlstm-lm-mixed";
  const Json exact = parse_json(run_carousel("verify --json " + fixture).out, "verify");
  for (const char* flags : {" --weights bf16", " --weights f16", " --weights bf16 --compute bf16"}) {
    const Ran ran = run_carousel("verify --json " + fixture + flags);
    EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
    const Json rounded = parse_json(ran.out, "verify");
    for (size_t i = 0; i < exact[0]["tensors"].size(); ++i) {
      const Json &was = exact[0]["tensors"][i], &is = rounded[0]["tensors"][i];
      if (was["name"] != "logits") continue;
      EXPECT_LT(was["relative_l2"].get<double>(), 2e-5);
      EXPECT_GT(is["relative_l2"].get<double>(), 2e-5) << flags;
    }
  }
  // What rounds nothing keeps the narrow bound.
  for (const char* flags : {" --compute bf16", " --weights f32"}) {
    const Ran ran = run_carousel("verify --strict " + fixture + flags);
    EXPECT_EQ(ran.status, 0) << ran.out << ran.err;
    const Scratch plain;
    const std::string folder = init_model(plain, kTinyXlstm);
    write_expected(folder, 10, 0.01f);
    EXPECT_EQ(run_carousel("verify " + folder + flags).status, 1) << flags;
  }
  // The wider bound is one too.
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_expected(folder, 10, 20.0f);
  EXPECT_EQ(run_carousel("verify " + folder + " --weights bf16").status, 1);
}

TEST(Verify, CorruptedExpectationFails) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  // One logit of 20 x 256 values of about 0.1: a relative L2 of about 1e-3, far above 2e-5 and far below a glance.
  write_expected(folder, 10, 0.01f);
  const Ran ran = run_carousel("verify " + folder);
  EXPECT_EQ(ran.status, 1) << ran.out << ran.err;
  EXPECT_NE(ran.out.find("FAIL"), std::string::npos) << ran.out;
  EXPECT_NE(ran.out.find("0 ok, 1 FAIL, 0 skip"), std::string::npos) << ran.out;
}

TEST(Verify, NotANumberFails) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_expected(folder, 10, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(run_carousel("verify " + folder).status, 1);
  EXPECT_EQ(run_carousel("verify --json " + folder).status, 1);
}

TEST(Verify, MalformedCaseIsStatusTwo) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  EXPECT_EQ(run_carousel("verify " + folder).status, 2) << "no expected.safetensors";
  EXPECT_EQ(run_carousel("verify " + (scratch / "nowhere")).status, 2);

  const std::string path = folder + "/expected.safetensors";
  Tensor ids(Shape{1, 3}, DType::kI64);
  ids.i64()[1] = 256;
  formats::write_safetensors(path, {{"ids.3", ids}});
  const Ran beyond = run_carousel("verify " + folder);
  EXPECT_EQ(beyond.status, 2);
  EXPECT_NE(beyond.err.find("\"ids.3\" holds 256, expected 0 to 255"), std::string::npos) << beyond.err;

  ids.i64()[1] = 1;
  formats::write_safetensors(path, {{"ids.3", ids}, {"logits.3", Tensor(Shape{1, 3, 255}, DType::kF32)}});
  const Ran shape = run_carousel("verify " + folder);
  EXPECT_EQ(shape.status, 2);
  EXPECT_NE(shape.err.find("\"logits.3\" is F32 [1, 3, 255], expected 768"), std::string::npos) << shape.err;

  write_file(path, "not a safetensors file");
  EXPECT_EQ(run_carousel("verify " + folder).status, 2);
}

TEST(Verify, SkipsWhatItCannotComputeAndSaysWhy) {
  const Scratch scratch;
  const std::string folder = init_model(scratch, kTinyXlstm);
  write_expected(folder, 4);
  const formats::SafetensorsFile file = formats::SafetensorsFile::open(folder + "/expected.safetensors");
  NamedTensors tensors = file.load_all();
  tensors.push_back({"riddle", Tensor(Shape{2}, DType::kF32)});
  tensors.push_back({"mystery", Tensor(Shape{2}, DType::kF32)});
  formats::write_safetensors(folder + "/expected.safetensors", tensors);
  const Ran lenient = run_carousel("verify " + folder);
  EXPECT_EQ(lenient.status, 0) << lenient.out << lenient.err;
  EXPECT_NE(lenient.out.find("nothing in this build computes it"), std::string::npos) << lenient.out;
  EXPECT_NE(lenient.out.find("1 ok, 0 FAIL, 2 skip"), std::string::npos) << lenient.out;
  EXPECT_EQ(run_carousel("verify --strict " + folder).status, 1);

  // With every tensor skipped nothing was verified, and that is no success.
  write_file(folder + "/config.json", R"({"model_type": "retnet"})");
  const Ran unknown = run_carousel("verify " + folder);
  EXPECT_EQ(unknown.status, 1) << unknown.out;
  EXPECT_NE(unknown.out.find("this build has no model_type \"retnet\""), std::string::npos) << unknown.out;
}

TEST(Verify, WorstCaseDecidesTheStatus) {
  const Scratch good, bad;
  const std::string agrees = init_model(good, kTinyXlstm);
  write_expected(agrees, 4);
  const std::string malformed = init_model(bad, kTinyXlstm);
  EXPECT_EQ(run_carousel("verify " + agrees + " " + malformed).status, 2);
  EXPECT_EQ(run_carousel("verify " + agrees + " " + agrees).status, 0);
}

}  // namespace
}  // namespace carousel::cli
