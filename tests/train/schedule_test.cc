// SPDX-License-Identifier: Apache-2.0
#include "carousel/train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "carousel/formats/safetensors.h"
#include "tests/train/written.h"

namespace carousel::train {
namespace {

Schedule schedule(const std::string& kind, int64_t steps, const std::string& warmup) {
  Schedule out;
  out.kind = Schedule::kind_of(kind);
  out.steps = steps;
  out.warmup = Span::parse("--warmup", warmup);
  return out;
}

TEST(Schedule, WarmupRisesToTheRate) {
  for (const std::string& kind : Schedule::names()) {
    const Schedule rates = schedule(kind, 100, "10%");
    for (int64_t step = 0; step < 10; ++step) {
      EXPECT_DOUBLE_EQ(rates.at(step), 1e-3 * static_cast<double>(step + 1) / 10) << kind;
    }
    EXPECT_DOUBLE_EQ(rates.at(10), 1e-3) << kind;
    EXPECT_DOUBLE_EQ(schedule(kind, 100, "0").at(0), 1e-3) << kind;
  }
}

TEST(Schedule, CurvesFallToTheLeastRate) {
  for (const char* kind : {"cosine", "linear", "exp", "wsd"}) {
    const Schedule rates = schedule(kind, 1000, "20");
    EXPECT_NEAR(rates.at(1000), 1e-4, 1e-15) << kind;
    EXPECT_NEAR(rates.at(999), 1e-4, 6e-6) << kind;
    for (int64_t step = 21; step < 1000; ++step) EXPECT_LE(rates.at(step), rates.at(step - 1)) << kind;
  }
  EXPECT_DOUBLE_EQ(schedule("cosine", 1000, "0").at(500), 5.5e-4);
  EXPECT_DOUBLE_EQ(schedule("linear", 1000, "0").at(500), 5.5e-4);
  EXPECT_DOUBLE_EQ(schedule("exp", 1000, "0").at(500), 1e-3 * std::sqrt(0.1));
  EXPECT_DOUBLE_EQ(schedule("constant", 1000, "0").at(999), 1e-3);
}

TEST(Schedule, WsdIsStableUntilItsCooldown) {
  Schedule rates = schedule("wsd", 100, "2");
  EXPECT_DOUBLE_EQ(rates.at(80), 1e-3) << "the cooldown is 20%";
  EXPECT_DOUBLE_EQ(rates.at(90), 5.5e-4);
  for (const int64_t steps : {1, 3, 100}) {  // halves are rounded up
    Schedule halves = schedule("wsd", steps, "50%");
    halves.cooldown = Span::parse("--cooldown", "50%");
    halves.check();
  }
  rates.cooldown = Span::parse("--cooldown", "0");
  EXPECT_DOUBLE_EQ(rates.at(99), 1e-3);
}

TEST(Schedule, SpansAreStepsOrShares) {
  EXPECT_EQ(Span::parse("--warmup", "20").steps(300), 20);
  EXPECT_EQ(Span::parse("--warmup", "2%").steps(300), 6);
  EXPECT_NE(error_of([] { Span::parse("--warmup", "1e300"); }).find("--warmup: got"), std::string::npos);
  EXPECT_EQ(Span::parse("--warmup", "0.5%").steps(300), 2);
  for (const char* wrong : {"", "%", "-1", "1.5", "101%", "2 %", "nan", "inf", "1e400", "0x10"}) {
    EXPECT_NE(error_of([&] { Span::parse("--warmup", wrong); }).find("--warmup: got"), std::string::npos) << wrong;
  }
}

TEST(Schedule, WhatMakesNoCurveIsRefused) {
  const auto refusal = [](auto change) {
    Schedule rates;
    rates.steps = 100;
    change(rates);
    return error_of([&] { rates.check(); });
  };
  EXPECT_EQ(refusal([](Schedule&) {}), "no error");
  EXPECT_NE(refusal([](Schedule& s) { s.warmup = {101, false}; }).find("--warmup"), std::string::npos);
  EXPECT_NE(refusal([](Schedule& s) {
              s.kind = Schedule::Kind::kWsd, s.warmup = {81, false};
            }).find("20 of --cooldown"),
            std::string::npos);
  EXPECT_NE(refusal([](Schedule& s) { s.kind = Schedule::Kind::kExp, s.lr_min = 0; }).find("exp"), std::string::npos);
  EXPECT_NE(refusal([](Schedule& s) { s.lr_min = 2; }).find("--lr-min"), std::string::npos);
  EXPECT_NE(refusal([](Schedule& s) { s.lr = 0; }).find("--lr"), std::string::npos);
  EXPECT_NE(error_of([] { Schedule::kind_of("step"); }).find("cosine, wsd"), std::string::npos);
}

// The rates that transformers trained the reference curve with, where it is beside the repository.
TEST(Schedule, CosineIsThatOfTheReferenceCurve) {
  const std::string path = CAROUSEL_SOURCE_DIR "/../shared/golden/curve-stories/curve.safetensors";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no reference cases at hand";
  const formats::SafetensorsFile curve = formats::SafetensorsFile::open(path);
  const formats::TensorEntry* rates = curve.find("lrs");
  const Schedule cosine = schedule("cosine", 300, "20");
  for (int64_t step = 0; step < 300; ++step) {
    double expected = 0;
    std::memcpy(&expected, rates->bytes + static_cast<size_t>(step) * sizeof expected, sizeof expected);
    EXPECT_NEAR(cosine.at(step), expected, 1e-17) << step;
  }
}

}  // namespace
}  // namespace carousel::train
