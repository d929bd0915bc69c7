// SPDX-License-Identifier: Apache-2.0
// Numeric profiles as files: what is read, what is refused, and what the shipped ones say.
#include "carousel/model/profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "carousel/core/error.h"
#include "carousel/model/config.h"
#include "carousel/model/load.h"
#include "carousel/model/params.h"

namespace carousel::model {
namespace {

Numerics parsed(const std::string& text) { return parse_profile(parse_json(text, "p.json"), "p.json"); }

std::string refusal(const std::string& text) {
  try {
    parsed(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << text;
    return error.what();
  }
  return "accepted";
}

TEST(Profile, EveryFileOfTheFolderIsShippedUnderItsName) {
  const std::vector<std::string> names = profile_names();
  ASSERT_FALSE(names.empty());
  EXPECT_EQ(names.front(), "native");
  size_t files = 0;
  for (const auto& file : std::filesystem::directory_iterator(CAROUSEL_SOURCE_DIR "/carousel/model/profiles")) {
    const std::string name = file.path().stem().string();
    EXPECT_NE(std::find(names.begin(), names.end(), name), names.end()) << name;
    EXPECT_EQ(find_profile(name), find_profile(file.path().string())) << name;
    EXPECT_EQ(find_profile(name).name, name);
    EXPECT_FALSE(find_profile(name).description.empty()) << name;
    ++files;
  }
  EXPECT_EQ(files, names.size());
}

TEST(Profile, NativeIsWhatAnOpIsGivenWithoutAProfile) {
  Numerics native = find_profile("native");
  native.description.clear();
  EXPECT_EQ(native, Numerics::native());
}

TEST(Profile, WrittenAndReadBackItIsTheSame) {
  for (const std::string& name : profile_names()) {
    const Numerics numerics = find_profile(name);
    EXPECT_EQ(parse_profile(profile_json(numerics), "again"), numerics) << name;
  }
}

TEST(Profile, WhatIsNotMentionedIsThatOfTheProfileItExtends) {
  const Numerics numerics = parsed(R"({"name": "mine", "extends": "torch-bf16", "states": "f32",
                                       "norm": {"eps": "outside_root"}})");
  Numerics expected = find_profile("torch-bf16");
  expected.name = "mine";
  expected.description.clear();
  expected.states = DType::kF32;
  expected.norm.eps_outside_root = true;
  EXPECT_EQ(numerics, expected);
  EXPECT_TRUE(numerics.norm.cast_before_weight);
}

TEST(Profile, NullTakesAValueOfTheExtendedProfileBack) {
  const Numerics numerics = parsed(R"({"extends": "ncps-tf", "ltc": {"step": null, "epsilon": null, "w": null,
                                       "constraints": "model", "cm": [null, 5]}})");
  EXPECT_FALSE(numerics.ltc.step || numerics.ltc.epsilon || numerics.ltc.implicit);
  EXPECT_EQ(numerics.ltc.w, Numerics::Range{});
  EXPECT_EQ(numerics.ltc.cm.high, 5);
  EXPECT_EQ(numerics.ltc.gleak.low, 1e-5);
}

// Values of the TensorFlow code, as specs of it give them.
TEST(Profile, NcpsTfHoldsTheClampsAndInitialValuesOfItsCode) {
  const Numerics tf = find_profile("ncps-tf");
  EXPECT_EQ(tf.ltc.w, (Numerics::Range{1e-5, 1e3}));
  EXPECT_EQ(tf.ltc.gleak, (Numerics::Range{1e-5, 1e3}));
  EXPECT_EQ(tf.ltc.cm, (Numerics::Range{1e-6, 1e3}));
  EXPECT_EQ(tf.ltc.implicit, false);
  EXPECT_EQ(tf.ltc.step, 1.0);
  EXPECT_EQ(tf.ltc.epsilon, 0.0);
}

TEST(Profile, RefusesWhatItDoesNotKnowAndNamesWhatItKnows) {
  EXPECT_NE(refusal(R"({"activation": "bf16"})").find("known keys: activations, attention"), std::string::npos);
  EXPECT_NE(refusal(R"({"activations": "f16"})").find("expected one of: f32, bf16"), std::string::npos);
  EXPECT_NE(refusal(R"({"norm": {"weight": 1}})").find("known keys: cast, eps, reduction, variance"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"extends": "torch"})").find("expected one of native, mlx"), std::string::npos);
  EXPECT_NE(refusal(R"({"init": {"ltc.foo": {"constant": 1}}})").find("ltc.gleak"), std::string::npos);
  EXPECT_NE(refusal(R"({"init": {"ltc.w": {"cauchy": 1}}})").find("known keys: constant"), std::string::npos);
  try {
    find_profile("torch-bf17");
    FAIL() << "found";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("torch-bf16, torch-f32"), std::string::npos) << error.what();
  }
}

TEST(Profile, RefusesValuesOutOfRange) {
  for (const char* text : {"[]",
                           "3",
                           R"({"name": 3})",
                           R"({"activations": 16})",
                           R"({"activations": null})",
                           R"({"name": null})",
                           R"({"extends": null})",
                           R"({"norm": null})",
                           R"({"norm": {"eps": null}})",
                           R"({"ltc": {"solver": null}})",
                           R"({"init": null})",
                           R"({"init": {"ltc.w": {"constant": null}}})",
                           R"({"init": {"ltc.w": {"uniform": null}}})",
                           R"({"norm": 3})",
                           R"({"norm": {"eps": 1e-6}})",
                           R"({"mlstm": {"pieces": "chunk"}})",
                           R"({"ltc": {"unfolds": 0}})",
                           R"({"ltc": {"unfolds": 1e9}})",
                           R"({"ltc": {"unfolds": 2.5}})",
                           R"({"ltc": {"step": 0}})",
                           R"({"ltc": {"step": -1}})",
                           R"({"ltc": {"epsilon": 2}})",
                           R"({"ltc": {"w": 3}})",
                           R"({"ltc": {"w": [1]}})",
                           R"({"ltc": {"w": [2, 1]}})",
                           R"({"ltc": {"w": [0, 1e300]}})",
                           R"({"ltc": {"w": ["0", 1]}})",
                           R"({"ltc": {"solver": "rk45"}})",
                           R"({"init": []})",
                           R"({"init": {"ltc.w": 1}})",
                           R"({"init": {"ltc.w": {}}})",
                           R"({"init": {"ltc.w": {"uniform": [1, 0]}}})",
                           R"({"init": {"ltc.w": {"uniform": [0]}}})",
                           R"({"init": {"ltc.w": {"normal": -1}}})",
                           R"({"init": {"ltc.erev": {"signs": 1.5}}})",
                           R"({"init": {"ltc.w": {"normal": 1, "constant": 0}}})"}) {
    EXPECT_NE(refusal(text), "accepted") << text;
  }
}

// Parameters of models that between them have every kind.
std::set<std::string> kinds_of_models() {
  std::set<std::string> kinds;
  for (const char* text : {
           R"({"model_type": "xlstm", "vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 1})",
           R"({"model_type": "cfc", "input_size": 2, "units": 4, "mode": "pure"})",
           R"({"model_type": "ltc", "input_size": 2, "units": 4})",
       }) {
    ParamList list;
    declare_params(parse_config(parse_json(text, "config"), "config"), list, "config");
    for (const ParamRecord& record : list.records()) kinds.insert(init_kind(record.name));
  }
  return kinds;
}

TEST(Profile, EveryKindOfParameterIsFoundInSomeModel) {
  const std::set<std::string> found = kinds_of_models();
  for (const std::string& kind : init_kinds()) EXPECT_TRUE(found.count(kind)) << kind;
  EXPECT_EQ(init_kind("layers.0.mlstm.head_norm.weight"), "");
}

TEST(Profile, DrawsItsKindsAndLeavesTheOthersToTheirBlocks) {
  const Numerics numerics = parsed(R"({"init": {"ltc.w": {"constant": 3}, "ltc.erev": {"signs": 1}}})");
  const Init own = Init::normal(2).read_by(0.5);
  const Init w = drawn_by(numerics, "layers.0.ncps_ltc.cell.sensory_w", own);
  EXPECT_EQ(w.kind, Init::Kind::kConstant);
  EXPECT_EQ(w.a, 3);
  EXPECT_EQ(w.read_share, 0.5);
  EXPECT_EQ(drawn_by(numerics, "layers.0.ncps_ltc.cell.mu", own).kind, Init::Kind::kNormal);

  // Signs are drawn where there is a synapse.
  const Init erev = drawn_by(numerics, "layers.0.ncps_ltc.cell.erev", Init::copied({-1, 0, 1, -1}));
  std::vector<float> values(4);
  draw_param({"x", Shape{2, 2}, erev}, 1, values.data());
  EXPECT_EQ(values, (std::vector<float>{1, 0, 1, 1}));
}

}  // namespace
}  // namespace carousel::model
