// SPDX-License-Identifier: Apache-2.0
// The profile torch-bf16 against what transformers computes when it runs in bf16 (tools/make_bf16_fixtures.py): its
// logits lie at most half as far from those as native's do. And what holds of every profile: neighbours in a batch and
// the number of threads change no bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "carousel/cpu/isa.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"
#include "carousel/model/runner.h"

namespace carousel::model {
namespace {

const std::string kSource = CAROUSEL_SOURCE_DIR "/";

struct Loaded {
  Loaded(const std::string& path, const Numerics& numerics, int threads = 2)
      : pool(threads),
        stream{&Memory::host(), cpu::best_isa(), &pool},
        model(load(path, stream, ModelKind::kLanguage, numerics)),
        runner(*model.lm, stream, *model.numerics) {}

  ThreadPool pool;
  Stream stream;
  Model model;
  Runner runner;
};

std::vector<int32_t> tokens_of(const Tensor& ids) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < ids.count(); ++i) tokens.push_back(static_cast<int32_t>(ids.i64()[i]));
  return tokens;
}

double relative(const float* got, const float* want, int64_t count) {
  double error = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    norm += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(error / norm);
}

class Bf16Fixture : public testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(Bf16Fixture, TorchBf16LiesAtMostHalfAsFarAsNative) {
  const auto& [model, folder] = GetParam();
  const auto expected = formats::SafetensorsFile::open(kSource + folder + "/expected_bf16.safetensors");
  const std::vector<int32_t> tokens = tokens_of(expected.find("ids")->load());
  const Tensor want = expected.find("logits")->load().to_f32();
  const auto distance = [&, &path = model](const std::string& profile) {
    Loaded loaded(kSource + path, find_profile(profile));
    const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
    const Tensor got = loaded.runner.logits(loaded.runner.forward(tokens, lengths));
    EXPECT_EQ(got.count(), want.count());
    return relative(got.f32(), want.f32(), want.count());
  };
  const double native = distance("native"), torch = distance("torch-bf16");
  EXPECT_LE(torch, native / 2);
  EXPECT_GT(native, 1e-3) << "the fixture shows no difference to speak of";
}

INSTANTIATE_TEST_SUITE_P(Models, Bf16Fixture,
                         testing::Values(std::pair("tests/fixtures/models/xlstm-bf16-sharded",
                                                   "tests/fixtures/models/xlstm-bf16-sharded"),
                                         std::pair("tests/fixtures/models/lfm2-v4", "tests/fixtures/models/lfm2-v4"),
                                         std::pair("models/stories-xlstm", "tests/fixtures/numerics/stories-xlstm")),
                         [](const auto& named) { return "model" + std::to_string(named.index); });

// With its cache transformers takes the chunkwise form for whole chunks, all of it in bf16, and rounds the states after
// every call: 150 tokens (two chunks, 22 steps), then 8 more one by one. The fixture holds every 4th row and 16th
// logit.
TEST(Bf16Profile, WithACacheItTakesChunksAndRoundsStates) {
  const auto expected =
      formats::SafetensorsFile::open(kSource + "tests/fixtures/numerics/stories-xlstm/expected_bf16_cache.safetensors");
  const std::vector<int32_t> tokens = tokens_of(expected.find("ids")->load());
  const Tensor want = expected.find("logits")->load().to_f32();  // [1, R, V / 16]
  const int64_t columns = want.dim(2);
  const auto run = [&](const std::string& profile, double* state_distance) {
    Loaded loaded(kSource + "models/stories-xlstm", find_profile(profile));
    State state;
    State* const states[] = {&state};
    std::vector<float> picked;
    int64_t row = 0;
    const auto feed = [&](int64_t count) {
      const int64_t lengths[] = {count};
      const std::span<const int32_t> piece =
          std::span(tokens).subspan(static_cast<size_t>(row), static_cast<size_t>(count));
      const Tensor logits = loaded.runner.logits(loaded.runner.forward(piece, states, lengths));
      for (int64_t n = 0; n < count; ++n, ++row) {
        for (int64_t c = 0; c < columns && row % 4 == 0; ++c)
          picked.push_back(logits.f32()[n * logits.dim(1) + c * 16]);
      }
    };
    feed(150);
    for (const NamedTensor& named : state.tensors(loaded.model.state_layout())) {
      if (named.name != "0.C") continue;
      const Tensor c = expected.find("state.0.C")->load().to_f32();
      *state_distance = relative(named.tensor.f32(), c.f32(), c.count());
    }
    while (row < static_cast<int64_t>(tokens.size())) feed(1);
    EXPECT_EQ(static_cast<int64_t>(picked.size()), want.count());
    return relative(picked.data(), want.f32(), want.count());
  };
  double native_state = 0, torch_state = 0;
  const double native = run("native", &native_state), torch = run("torch-bf16", &torch_state);
  EXPECT_LE(torch, native / 2);
  EXPECT_LE(torch_state, 1e-4);  // the state of the first layer is transformers' own but for a few roundings
  EXPECT_GT(native_state, 1e-3);
}

// In f32 the cuts of transformers are another order of the same sums.
TEST(Bf16Profile, TorchF32AgreesWithNative) {
  Loaded native(kSource + "models/stories-xlstm", Numerics::native());
  Loaded torch(kSource + "models/stories-xlstm", find_profile("torch-f32"));
  std::vector<int32_t> tokens;
  for (int32_t t = 0; t < 150; ++t) tokens.push_back((t * 37 + 5) % 4096);
  const int64_t lengths[] = {150};
  const Tensor a = native.runner.logits(native.runner.forward(tokens, lengths));
  const Tensor b = torch.runner.logits(torch.runner.forward(tokens, lengths));
  EXPECT_LE(relative(b.f32(), a.f32(), a.count()), 2e-5);
  EXPECT_NE(std::memcmp(a.f32(), b.f32(), a.size_bytes()), 0) << "the profile did nothing";
}

class AnyProfile : public testing::TestWithParam<std::string> {};

TEST_P(AnyProfile, NeighboursAndThreadsChangeNoBit) {
  for (const char* folder : {"tests/fixtures/models/xlstm-bf16-sharded", "tests/fixtures/models/lfm2-v4"}) {
    const auto run = [&](int threads, const std::vector<int64_t>& lengths) {
      Loaded loaded(kSource + folder, find_profile(GetParam()), threads);
      std::vector<int32_t> tokens;
      for (size_t s = 0; s < lengths.size(); ++s) {
        for (int64_t t = 0; t < lengths[s]; ++t) tokens.push_back(static_cast<int32_t>((t * 7 + 3 + 5 * s) % 64));
      }
      std::vector<State> states(lengths.size());
      std::vector<State*> pointers;
      for (State& state : states) pointers.push_back(&state);
      const Tensor logits = loaded.runner.logits(loaded.runner.forward(tokens, pointers, lengths));
      return std::vector<float>(logits.f32(), logits.f32() + lengths[0] * 64);
    };
    const std::vector<float> alone = run(1, {70});
    for (const std::vector<float>& other : {run(1, {70, 3, 0, 90}), run(3, {70, 90})}) {
      EXPECT_EQ(std::memcmp(alone.data(), other.data(), alone.size() * sizeof(float)), 0) << folder;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shipped, AnyProfile, testing::ValuesIn(profile_names()), [](const auto& named) {
  std::string name = named.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace carousel::model
