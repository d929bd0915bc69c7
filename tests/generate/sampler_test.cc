// SPDX-License-Identifier: Apache-2.0
// The sampler against distributions worked out by hand: which tokens a filter leaves is seen from which are ever drawn.
#include "carousel/generate/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "carousel/core/error.h"

namespace carousel::generate {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

SamplerParams plain() {  // temperature 1, every filter off
  SamplerParams params;
  params.temp = 1;
  params.top_k = 0;
  params.top_p = 1;
  params.min_p = 0;
  return params;
}

/// Logits whose softmax is `p`.
std::vector<float> logits_of(const std::vector<double>& p) {
  std::vector<float> logits;
  for (const double value : p) logits.push_back(static_cast<float>(std::log(value)));
  return logits;
}

Sampler make(const SamplerParams& params, const std::vector<float>& logits, uint64_t seed = 1, uint64_t stream = 0) {
  return Sampler(params, static_cast<int64_t>(logits.size()), {}, {}, seed, stream);
}

std::map<int32_t, int> draws(Sampler sampler, const std::vector<float>& logits, int count = 4000) {
  std::map<int32_t, int> counts;
  for (int pos = 0; pos < count; ++pos) ++counts[sampler.sample(logits, pos)];
  return counts;
}

std::set<int32_t> left_by(const SamplerParams& params, const std::vector<float>& logits) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : draws(make(params, logits), logits)) ids.insert(id);
  return ids;
}

const std::vector<double> kP = {0.1, 0.4, 0.05, 0.25, 0.2};

// 20000 draws of 5 outcomes: chi-square with 4 degrees of freedom exceeds 23.5 once in 10,000 times.
double chi_square(const std::map<int32_t, int>& counts, const std::vector<double>& p, int total) {
  double sum = 0;
  for (size_t id = 0; id < p.size(); ++id) {
    const auto found = counts.find(static_cast<int32_t>(id));
    const double got = found == counts.end() ? 0 : found->second;
    sum += (got - p[id] * total) * (got - p[id] * total) / (p[id] * total);
  }
  return sum;
}

TEST(Sampler, DefaultsAreThoseOfLlamaCpp) {
  const SamplerParams params;
  EXPECT_EQ(params.temp, 0.8);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.top_p, 0.95);
  EXPECT_EQ(params.min_p, 0.05);
  EXPECT_EQ(params.typical, 1.0);
  EXPECT_EQ(params.repeat_penalty, 1.0);
  EXPECT_EQ(params.repeat_last_n, 64);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = logits_of(kP);
  EXPECT_LT(chi_square(draws(make(plain(), logits), logits, 20000), kP, 20000), 23.5);
}

TEST(Sampler, TemperatureSharpensTheDistribution) {
  SamplerParams params = plain();
  params.temp = 0.5;  // p^2, normalised
  std::vector<double> squared;
  double sum = 0;
  for (const double p : kP) sum += p * p;
  for (const double p : kP) squared.push_back(p * p / sum);
  const std::vector<float> logits = logits_of(kP);
  EXPECT_LT(chi_square(draws(make(params, logits), logits, 20000), squared, 20000), 23.5);
  EXPECT_GT(chi_square(draws(make(params, logits), logits, 20000), kP, 20000), 23.5) << "the test can fail";
}

TEST(Sampler, TopKKeepsTheLikeliest) {
  SamplerParams params = plain();
  params.top_k = 2;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3}));
  params.top_k = 99;
  EXPECT_EQ(left_by(params, logits_of(kP)).size(), 5u);
  params.top_k = 2;  // of equals the lower ids
  EXPECT_EQ(left_by(params, {1, 1, 1, 1}), (std::set<int32_t>{0, 1}));
}

TEST(Sampler, TopPKeepsTheLeastThatHoldsIt) {
  SamplerParams params = plain();
  params.top_p = 0.64;  // 0.4 + 0.25 is the first sum to reach it
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3}));
  params.top_p = 0.66;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3, 4}));
  params.top_p = 0;  // one token always stays
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1}));
}

TEST(Sampler, TopPReachesIntoALargeVocabulary) {
  const std::vector<float> flat(1000, 0.5f);
  SamplerParams params = plain();
  params.top_p = 0.2995;  // 300 of 1000 equal ones, more than are put in order at first
  const std::set<int32_t> left = left_by(params, flat);
  EXPECT_GT(left.size(), 290u);
  EXPECT_LT(*left.rbegin(), 300);
}

TEST(Sampler, MinPIsRelativeToTheLikeliest) {
  SamplerParams params = plain();
  params.min_p = 0.45;  // of 0.4: at least 0.18
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3, 4}));
  params.min_p = 1;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1}));
}

TEST(Sampler, TypicalKeepsWhatIsNearestToTheEntropy) {
  // Entropy 1.415; surprises 2.303 0.916 2.996 1.386 1.609: the order of distance is 3 (0.03), 4 (0.19), 1 (0.50), ...
  SamplerParams params = plain();
  params.typical = 0.2;  // 0.25 exceeds it
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{3}));
  params.typical = 0.3;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{3, 4}));
  params.typical = 0.5;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3, 4}));
}

TEST(Sampler, FiltersComeBeforeTemperatureAndInOrder) {
  SamplerParams params = plain();
  params.temp = 100;  // after top_p: were it before, all would be near equal and four would stay
  params.top_p = 0.64;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1, 3}));
  params = plain();
  params.top_k = 2;  // first: 0.4 and 0.25 become 0.615 and 0.385
  params.top_p = 0.6;
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{1}));
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  SamplerParams params;
  params.temp = 0;
  const std::vector<float> logits = {1, 3, 2, 3};
  EXPECT_EQ(make(params, logits).sample(logits, 0), 1);
  params.temp = -1;
  EXPECT_EQ(make(params, logits).sample(logits, 0), 1);
}

TEST(Sampler, BiasActsBeforeTheChain) {
  SamplerParams params;
  params.temp = 0;
  params.logit_bias = {{1, -kInf}, {2, 0.5}, {2, 0.5}};
  const std::vector<float> logits = {1, 9, 2, 2.5f};
  EXPECT_EQ(make(params, logits).sample(logits, 0), 2);
  params = plain();
  params.logit_bias = {{1, -kInf}};
  EXPECT_EQ(left_by(params, logits_of(kP)), (std::set<int32_t>{0, 2, 3, 4}));
}

TEST(Sampler, PenaltiesFollowTheFormula) {
  SamplerParams params;
  params.temp = 0;
  params.repeat_penalty = 2;
  const std::vector<float> logits = {4, 3, -1, -1.5f};
  Sampler sampler = make(params, logits);
  EXPECT_EQ(sampler.sample(logits, 0), 0);
  sampler.accept(0);  // 4 / 2
  EXPECT_EQ(sampler.sample(logits, 1), 1);
  sampler.accept(1);  // 1.5
  EXPECT_EQ(sampler.sample(logits, 2), 0);
  const std::vector<float> negative = {-9, -9, -1, -1.5f};
  sampler.accept(2);  // -1 * 2
  EXPECT_EQ(sampler.sample(negative, 3), 3);

  params = SamplerParams();
  params.temp = 0;
  params.frequency_penalty = 0.75;
  params.presence_penalty = 0.5;
  const std::vector<float> close = {2, 0.6f, -5};
  Sampler counting = make(params, close);
  counting.accept(0);  // 2 - 1.25 = 0.75
  EXPECT_EQ(counting.sample(close, 0), 0);
  counting.accept(0);  // 2 - 2.0 = 0
  EXPECT_EQ(counting.sample(close, 1), 1);
}

TEST(Sampler, PenaltiesForgetBeyondTheWindow) {
  SamplerParams params;
  params.temp = 0;
  params.presence_penalty = 5;
  params.repeat_last_n = 2;
  const std::vector<float> logits = {4, 3, 2};
  Sampler sampler = make(params, logits);
  sampler.accept(0);
  sampler.accept(1);
  EXPECT_EQ(sampler.sample(logits, 0), 2);
  sampler.accept(2);  // 0 falls out
  EXPECT_EQ(sampler.sample(logits, 1), 0);
  sampler.accept(0);  // and comes back in as 1 falls out
  EXPECT_EQ(sampler.sample(logits, 2), 1);

  params.repeat_last_n = 0;
  Sampler off = make(params, logits);
  off.accept(0);
  EXPECT_EQ(off.sample(logits, 0), 0);
  params.repeat_last_n = -1;
  Sampler all = make(params, logits);
  all.accept(0);
  for (int i = 0; i < 500; ++i) all.accept(1);
  EXPECT_EQ(all.sample(logits, 0), 2);
}

TEST(Sampler, MaskedTokensAreNeverSampled) {
  const std::vector<float> logits = {1, 9, kNan, 2};  // padding may hold anything
  const std::vector<uint8_t> mask = {1, 0, 0, 1};
  SamplerParams params = plain();
  params.temp = 5;
  EXPECT_EQ(draws(Sampler(params, 4, mask, {}, 1, 0), logits).size(), 2u);
  params.temp = 0;
  EXPECT_EQ(Sampler(params, 4, mask, {}, 1, 0).sample(logits, 0), 3);
}

TEST(Sampler, IgnoreEosBansTheEndTokens) {
  SamplerParams params;
  params.temp = 0;
  params.ignore_eos = true;
  const std::vector<float> logits = {9, 8, 1};
  const std::vector<int32_t> ends = {0, 1};
  EXPECT_EQ(Sampler(params, 3, {}, ends, 1, 0).sample(logits, 0), 2);
}

TEST(Sampler, BadLogitsAreOneClearError) {
  for (const float bad : {kNan, std::numeric_limits<float>::infinity()}) {
    const std::vector<float> logits = {1, bad, 2};
    for (const double temp : {0.0, 1.0}) {
      SamplerParams params;
      params.temp = temp;
      try {
        make(params, logits).sample(logits, 0);
        FAIL() << "no error";
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("logit of token 1"), std::string::npos) << error.what();
      }
    }
  }
}

TEST(Sampler, NoTokenLeftIsAnError) {
  for (const double temp : {0.0, 1.0}) {
    SamplerParams params;
    params.temp = temp;
    params.logit_bias = {{0, -kInf}, {1, -kInf}};
    const std::vector<float> logits = {1, 2};
    EXPECT_THROW(make(params, logits).sample(logits, 0), Error);
  }
}

TEST(Sampler, ValuesOutOfRangeAreRefused) {
  const std::vector<float> logits = {1, 2};
  const auto refused = [&](auto change) {
    SamplerParams params;
    change(params);
    EXPECT_THROW(make(params, logits), Error);
  };
  refused([](SamplerParams& p) { p.temp = kNan; });
  refused([](SamplerParams& p) { p.top_p = 1.5; });
  refused([](SamplerParams& p) { p.min_p = -0.1; });
  refused([](SamplerParams& p) { p.typical = kNan; });
  refused([](SamplerParams& p) { p.repeat_penalty = 0; });
  refused([](SamplerParams& p) { p.repeat_last_n = -2; });
  refused([](SamplerParams& p) { p.logit_bias = {{2, 1.0}}; });
  refused([](SamplerParams& p) { p.logit_bias = {{0, kInf}}; });
}

TEST(Sampler, ADrawDependsOnSeedStreamAndPositionAlone) {
  const std::vector<float> logits(1000, 0.0f);
  const auto sequence = [&](uint64_t seed, uint64_t stream) {
    Sampler sampler = make(plain(), logits, seed, stream);
    std::vector<int32_t> ids;
    for (int pos = 0; pos < 20; ++pos) ids.push_back(sampler.sample(logits, pos));
    return ids;
  };
  EXPECT_EQ(sequence(5, 0), sequence(5, 0));
  EXPECT_NE(sequence(5, 0), sequence(6, 0));
  EXPECT_NE(sequence(5, 0), sequence(5, 1));
  Sampler resumed = make(plain(), logits, 5, 0);
  EXPECT_EQ(resumed.sample(logits, 19), sequence(5, 0).back());
}

TEST(Sampler, ExtremeTemperaturesAndLogitsStayDefined) {
  const std::vector<float> logits = {-3e38f, 3e38f, 0};
  for (const double temp : {1e-30, 1e30}) {
    SamplerParams params;
    params.temp = temp;
    params.repeat_penalty = 1e-6;
    Sampler sampler = make(params, logits);
    sampler.accept(1);
    EXPECT_EQ(sampler.sample(logits, 0), 1);
  }
}

TEST(Logprobs, AreThoseOfTheRawSoftmax) {
  std::vector<float> logits = logits_of(kP);
  for (float& logit : logits) logit += 50;
  // f32 logits near 50 are 4e-6 apart.
  for (size_t id = 0; id < kP.size(); ++id) {
    EXPECT_NEAR(logprob_of(logits, static_cast<int32_t>(id)), std::log(kP[id]), 1e-5);
  }
  std::vector<TokenLogprob> top;
  top_logprobs(logits, 3, top);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].id, 1);
  EXPECT_EQ(top[1].id, 3);
  EXPECT_EQ(top[2].id, 4);
  EXPECT_NEAR(top[2].logprob, std::log(0.2), 1e-5);
  top_logprobs(logits, 99, top);
  EXPECT_EQ(top.size(), 5u);
  top_logprobs(logits, 0, top);
  EXPECT_TRUE(top.empty());
}

}  // namespace
}  // namespace carousel::generate
