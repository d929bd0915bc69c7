// SPDX-License-Identifier: Apache-2.0
// Reference cases computed by transformers: logits in one piece, in odd pieces and token by token, batched and alone;
// greedy tokens. The fixtures are made by tools/make_model_fixtures.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "carousel/cpu/isa.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

// What the reference cases ask for. Seen here: below 1e-6 on all of them, so a miss is a difference in formula.
constexpr double kTolerance = 2e-5;

std::vector<std::string> cases() {
  std::vector<std::string> out;
  for (const auto& item : fs::directory_iterator(CAROUSEL_SOURCE_DIR "/tests/fixtures/models")) {
    out.push_back(item.path().filename().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

class Golden : public testing::TestWithParam<std::string> {
 protected:
  Golden()
      : pool_(2),
        stream_{&Memory::host(), cpu::best_isa(), &pool_},
        folder_(CAROUSEL_SOURCE_DIR "/tests/fixtures/models/" + GetParam()),
        model_(load(folder_, stream_)),
        expected_(formats::SafetensorsFile::open(folder_ + "/expected.safetensors")),
        runner_(*model_.lm, stream_) {}

  Tensor expected(const std::string& name) {
    const formats::TensorEntry* entry = expected_.find(name);
    EXPECT_NE(entry, nullptr) << name;
    return entry->load();
  }

  // Logits [rows.size() * T, V] of the given rows of ids [B, T], `piece` tokens at a time.
  std::vector<float> logits(const Tensor& ids, const std::vector<int64_t>& rows, int64_t piece) {
    const int64_t length = ids.dim(1);
    const int64_t vocab = model_.lm->vocab_size();
    std::vector<State> states(rows.size());
    std::vector<State*> pointers;
    for (State& state : states) pointers.push_back(&state);
    std::vector<float> out(rows.size() * static_cast<size_t>(length * vocab));
    for (int64_t t = 0; t < length; t += piece) {
      const int64_t count = std::min(piece, length - t);
      std::vector<int32_t> tokens;
      for (const int64_t row : rows) {
        for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(ids.i64()[row * length + t + i]));
      }
      const Tensor got = runner_.logits(runner_.forward(tokens, pointers, std::vector<int64_t>(rows.size(), count)));
      for (size_t b = 0; b < rows.size(); ++b) {
        std::memcpy(out.data() + (static_cast<int64_t>(b) * length + t) * vocab,
                    got.f32() + static_cast<int64_t>(b) * count * vocab,
                    static_cast<size_t>(count * vocab) * sizeof(float));
      }
    }
    return out;
  }

  ThreadPool pool_;
  Stream stream_;
  std::string folder_;
  Model model_;
  formats::SafetensorsFile expected_;
  Runner runner_;
};

double relative(const std::vector<float>& got, const float* expected) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(static_cast<double>(got[i]) - expected[i], 2);
    norm += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(error / norm);
}

TEST_P(Golden, LogitsAgreeHoweverThePromptIsCut) {
  for (const char* length : {"1", "5", "70"}) {
    const Tensor ids = expected(std::string("ids.") + length);
    const Tensor truth = expected(std::string("logits.") + length);
    for (const int64_t piece : {1000, 13, 1}) {
      EXPECT_LE(relative(logits(ids, {0, 1}, piece), truth.f32()), kTolerance) << length << " in pieces of " << piece;
    }
  }
}

TEST_P(Golden, ASequenceAloneEqualsBatchedBitForBit) {
  const Tensor ids = expected("ids.70");
  for (const int64_t piece : {1000, 9, 1}) {
    const std::vector<float> both = logits(ids, {1, 0}, piece);
    const std::vector<float> second = logits(ids, {1}, piece);
    EXPECT_EQ(std::memcmp(both.data(), second.data(), second.size() * sizeof(float)), 0);
  }
}

TEST_P(Golden, GreedyTokensAreEqual) {
  const Tensor prompt = expected("prompt");
  const Tensor greedy = expected("greedy");
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < prompt.count(); ++i) tokens.push_back(static_cast<int32_t>(prompt.i64()[i]));
  State state;
  for (int64_t i = 0; i < greedy.count(); ++i) {
    const Tensor row = runner_.logits(runner_.prefill(tokens, state));
    const float* best = std::max_element(row.f32(), row.f32() + row.count());
    tokens.assign(1, static_cast<int32_t>(best - row.f32()));
    ASSERT_EQ(tokens[0], greedy.i64()[i]) << "token " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Golden, testing::ValuesIn(cases()), [](const auto& named) {
  std::string name = named.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace carousel::model
