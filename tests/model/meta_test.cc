// SPDX-License-Identifier: Apache-2.0
// Whole models run their real forwards on meta: prompts, decode, logits, circuits and forecasts reserve there what they
// do on the CPU, byte for byte, whatever types their weights are held in. What info, bench and admission say of
// activations is what a run on the CPU then reserves.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/meta_memory.h"
#include "carousel/cpu/isa.h"
#include "carousel/forecast/tirex.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"
#include "carousel/model/runner.h"
#include "tests/like_host.h"

namespace carousel::model {
namespace {

const std::string kFixtures = CAROUSEL_SOURCE_DIR "/tests/fixtures/";

std::vector<std::string> language_models() {
  std::vector<std::string> folders;
  for (const char* name : {"lfm2-conv7", "lfm2-v4", "llama-f16", "llama3-rope", "xlstm-bf16-sharded", "xlstm-lm-mixed",
                           "xlstm-odd", "xlstm-onehead-caps"}) {
    folders.push_back(kFixtures + "models/" + name);
  }
  folders.push_back(CAROUSEL_SOURCE_DIR "/models/stories-xlstm");
  return folders;
}
std::vector<std::string> regressors() {
  return {kFixtures + "regressors/ncps-cfc-wired", kFixtures + "regressors/ncps-ltc-autoncp"};
}
std::string forecaster() { return kFixtures + "tirex/tiny.ckpt"; }

/// One model on the CPU, and its twin on meta.
struct Twins {
  explicit Twins(const std::string& folder, ModelKind kind, const WeightTypes& types = {})
      : loaded(load(folder, host, kind, Numerics::native(), types)),
        shapes(model_on_meta(open_model_files(folder), types)) {}

  ThreadPool pool{3};
  const Stream host{&Memory::host(), cpu::best_isa(), &pool}, meta{&Memory::meta(), cpu::best_isa(), &pool};
  Model loaded, shapes;
};

/// Bytes the arena holds after a prompt of two sequences, a decode step, and the logits of both.
std::vector<size_t> reserved(const Lm& lm, const Stream& stream) {
  Runner runner(lm, stream);
  std::vector<State> states(2);
  const std::vector<State*> pointers = {&states[0], &states[1]};
  std::vector<size_t> sizes;
  for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{100, 3}, {1, 1}, {0, 70}}) {
    const std::vector<int32_t> tokens(static_cast<size_t>(lengths[0] + lengths[1]), 1);
    const Tensor hidden = runner.forward(tokens, pointers, lengths);
    const Tensor logits = runner.logits(hidden);
    EXPECT_EQ(logits.dim(1), lm.vocab_size());
    sizes.push_back(runner.arena().size_bytes());
  }
  return sizes;
}

TEST(Meta, FixtureModelsReserveWhatTheyDoOnTheCpu) {
  for (const std::string& folder : language_models()) {
    const Twins twins(folder, ModelKind::kLanguage);
    EXPECT_EQ(reserved(*twins.shapes.lm, twins.meta), reserved(*twins.loaded.lm, twins.host)) << folder;
    EXPECT_EQ(reserved(*twins.loaded.lm, twins.meta), reserved(*twins.loaded.lm, twins.host))
        << folder << ", weights on the host";
  }
}

TEST(Meta, WeightsInAMappedFileReserveWhatTheyDoOnTheCpu) {
  WeightTypes types;
  types.mapped = true;
  const Twins twins(CAROUSEL_SOURCE_DIR "/models/stories-xlstm", ModelKind::kLanguage, types);
  EXPECT_EQ(reserved(*twins.loaded.lm, twins.meta), reserved(*twins.loaded.lm, twins.host));
}

/// The same for rows of features, with and without the times between them.
std::vector<size_t> reserved(const Regressor& regressor, const Stream& stream) {
  std::vector<size_t> sizes;
  for (const bool timed : {false, true}) {
    Predictor predictor(regressor, stream);
    std::vector<State> states(2);
    const std::vector<State*> pointers = {&states[0], &states[1]};
    for (const std::vector<int64_t>& lengths : std::vector<std::vector<int64_t>>{{1, 1}, {100, 3}, {0, 70}}) {
      const int64_t rows = lengths[0] + lengths[1];
      const Tensor x(Shape{rows, regressor.input_size()}, DType::kF32);
      const Tensor elapsed = timed ? Tensor(Shape{rows}, DType::kF32) : Tensor();
      const Tensor y = predictor.forward(x, elapsed, pointers, lengths);
      EXPECT_EQ(y.shape(), (Shape{rows, regressor.output_size()}));
      EXPECT_EQ(y.device(), stream.device());
      sizes.push_back(predictor.arena().size_bytes());
    }
  }
  return sizes;
}

TEST(Meta, RegressorsReserveWhatTheyDoOnTheCpu) {
  for (const std::string& folder : regressors()) {
    const Twins twins(folder, ModelKind::kRegressor);
    EXPECT_EQ(reserved(*twins.shapes.regressor, twins.meta), reserved(*twins.loaded.regressor, twins.host)) << folder;
  }
}

/// The same of forecasts: two series, one of which begins with padding that is remembered, over several passes.
std::vector<size_t> reserved(const Forecaster& forecaster, const Stream& stream) {
  forecast::Tirex tirex(forecaster, stream);
  std::vector<float> whole(static_cast<size_t>(tirex.context()));
  for (size_t i = 0; i < whole.size(); ++i) whole[i] = std::sin(static_cast<float>(i));
  std::vector<size_t> sizes;
  for (const int64_t accelerate : {1, 2}) {
    const auto forecasts = tirex.forecast({whole, {1, 2, 3}}, {3 * tirex.patch(), accelerate});
    EXPECT_EQ(forecasts.size(), 2u);
    EXPECT_EQ(forecasts[0].values.size(), static_cast<size_t>(3 * tirex.patch()) * tirex.levels().size());
    sizes.push_back(tirex.arena().size_bytes());
  }
  return sizes;
}

TEST(Meta, ForecastsReserveWhatTheyDoOnTheCpu) {
  const Twins twins(forecaster(), ModelKind::kForecaster);
  EXPECT_EQ(reserved(*twins.shapes.forecaster, twins.meta), reserved(*twins.loaded.forecaster, twins.host));
}

TEST(Activations, AreWhatARunOfALanguageModelReserves) {
  for (const std::string& folder : language_models()) {
    const Twins twins(folder, ModelKind::kLanguage);
    const Lm& lm = *twins.loaded.lm;
    Runner decode(lm, twins.host), prompt(lm, twins.host);
    State decoded, prompted;
    State* const states[] = {&decoded};
    const int64_t lengths[] = {1};
    const std::vector<int32_t> tokens(static_cast<size_t>(kPrefillRows), 1);
    decode.logits(decode.forward(std::span(tokens).first(1), states, lengths));
    prompt.logits(prompt.prefill(tokens, prompted));
    for (const Model* model : {&twins.shapes, &twins.loaded}) {
      const Activations said = measure_activations(*model, twins.host);
      EXPECT_EQ(said.decode_bytes, decode.arena().size_bytes()) << folder;
      EXPECT_EQ(said.prompt_bytes, prompt.arena().size_bytes()) << folder;
      EXPECT_EQ(said.prompt_rows, kPrefillRows);
      EXPECT_EQ(said.state_bytes, prompted.bytes()) << folder;
    }
    // Later in the sequence, as bench runs it.
    Runner later(lm, twins.host);
    EXPECT_EQ(decode_activations(lm, twins.host, Numerics::native(), prompted), [&] {
      State* const copies[] = {&prompted};
      later.logits(later.forward(std::span(tokens).first(1), copies, lengths));
      return later.arena().size_bytes();
    }()) << folder;
  }
}

/// A meta with so many bytes left.
struct Tight final : MetaMemory {
  size_t left = 0;
  size_t granted(size_t size_bytes) const override { return Memory::host().granted(size_bytes); }
  size_t available_bytes() const override { return left; }
};

TEST(Activations, SequencesThatDoNotFitAreRefused) {
  const Model model = model_on_meta(open_model_files(kFixtures + "models/lfm2-v4"));
  const StateLayout& layout = model.lm->state_layout();
  ThreadPool pool(1);
  Tight memory;
  const Stream stream{&memory, cpu::best_isa(), &pool};
  const size_t reading = prompt_activations(*model.lm, stream, Numerics::native(), prefill_rows(memory));
  const State fresh;
  memory.left = layout.bytes_at(5000) + reading;
  EXPECT_NO_THROW(check_sequences(*model.lm, stream, "prompt", fresh, 5000));
  EXPECT_NO_THROW(check_sequences(*model.lm, stream, "prompt", fresh, 64, 3));
  memory.left--;
  for (const auto& [tokens, samples] : {std::pair<int64_t, int64_t>{5000, 1}, {64, 100}}) {
    if (samples > 1) memory.left = layout.bytes_at(64) + 98 * layout.bytes_at(1);
    try {
      check_sequences(*model.lm, stream, "prompt", fresh, tokens, samples);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_EQ(std::string(error.what()).find("prompt: states and activations of "), 0U) << error.what();
    }
  }
}

TEST(Activations, RowsAndContextsThatDoNotFitAreRefused) {
  ThreadPool pool(1);
  Tight memory;
  const Stream stream{&memory, cpu::best_isa(), &pool};
  const auto refuses = [&](const auto& check) {
    memory.left = SIZE_MAX;
    EXPECT_NO_THROW(check());
    memory.left = 1000;
    EXPECT_THROW(check(), Error);
  };
  const Model regressor = model_on_meta(open_model_files(regressors().front()));
  refuses([&] { check_rows(*regressor.regressor, stream, "rows", 3, 1); });
  const Model model = model_on_meta(open_model_files(forecaster()));
  refuses([&] { check_contexts(*model.forecaster, stream, "series", 2, 1); });
}

/// The host's memory with so many bytes left.
struct Scarce final : LikeHost {
  size_t left = SIZE_MAX;
  int64_t blocks = 0;  // that were asked for
  size_t available_bytes() const override { return left; }
  std::byte* allocate(size_t size_bytes) override { return ++blocks, LikeHost::allocate(size_bytes); }
};

TEST(Activations, AModelThatDoesNotFitWithThemIsRefusedBeforeAnythingIsAllocated) {
  const std::string folder = CAROUSEL_SOURCE_DIR "/models/stories-xlstm";
  ThreadPool pool(1);
  Scarce memory;
  const Stream stream{&memory, cpu::best_isa(), &pool};
  const auto weights = static_cast<size_t>(measure_cost(open_model_files(folder)).held_bytes);
  for (const auto& [left, what] : {std::pair<size_t, const char*>{weights - 1, "weights of "},
                                   {weights, "weights, activations and state of one sequence of "}}) {
    memory.left = left;
    try {
      load(folder, stream);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
      EXPECT_NE(std::string(error.what()).find(what), std::string::npos) << error.what();
    }
    EXPECT_EQ(memory.blocks, 0);
  }
  memory.left = SIZE_MAX;
  EXPECT_NO_THROW(load(folder, stream));
  EXPECT_GT(memory.blocks, 0);
}

/// A meta that stands for a memory which the host cannot read.
struct Apart final : MetaMemory {
  size_t shared = SIZE_MAX;
  size_t shared_bytes() const override { return shared; }
  bool is_apart() const override { return true; }
  Device kernels() const override { return Device::kCuda; }
  Memory& counted() override { return *this; }
  size_t granted(size_t size_bytes) const override { return Memory::host().granted(size_bytes); }
};

TEST(Meta, AMatrixThatADeviceCannotHoldIsRefusedByItsName) {
  ModelFiles files = open_model_files(CAROUSEL_SOURCE_DIR "/tests/fixtures/configs/mixed.json");
  Apart memory;
  EXPECT_NO_THROW(measure_cost(files, {}, memory));
  const Json q = {{"type", "random"}, {"sparsity", 0.5}, {"seed", 1}};
  const Json wired = {{"model_type", "carousel"},
                      {"vocab_size", 64},
                      {"hidden_size", 32},
                      {"layer_types", {"mlstm"}},
                      {"mlstm_config", {{"num_heads", 2}, {"wiring", {{"q", q}}}}}};
  files.config = parse_config(wired, "wired");
  try {
    measure_cost(files, {}, memory);
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice);
    EXPECT_NE(std::string(error.what()).find("q.weight: weight: a matrix with a mask"), std::string::npos)
        << error.what();
  }
}

TEST(Meta, HeadsThatAGpuCannotHoldAreRefused) {
  Apart memory;
  ThreadPool pool(1);
  const Stream stream{&memory, cpu::best_isa(), &pool};
  for (const Json& options : {Json{{"layer_types", {"mlstm"}}, {"mlstm_config", {{"num_heads", 1}}}},
                              Json{{"layer_types", {"slstm"}}, {"slstm_config", {{"num_heads", 1}}}}}) {
    Json config = {{"model_type", "carousel"}, {"vocab_size", 64}, {"hidden_size", 4096}};
    config.update(options);
    ModelFiles files;
    files.config = parse_config(config, "wide");
    const Model model = model_on_meta(files, WeightTypes().in(memory));
    memory.shared = SIZE_MAX;
    try {
      measure_activations(model, stream);
    } catch (const Error&) {
      GTEST_SKIP() << "this build has no kernels for GPUs";
    }
    memory.shared = 99 << 10;
    try {
      measure_activations(model, stream);
      ADD_FAILURE() << "expected an error: " << options.dump();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDevice);
      EXPECT_NE(std::string(error.what()).find("with heads this wide"), std::string::npos) << error.what();
    }
  }
}

TEST(Activations, AreWhatARunOfARegressorReserves) {
  for (const std::string& folder : regressors()) {
    const Twins twins(folder, ModelKind::kRegressor);
    const Activations said = measure_activations(twins.shapes, twins.host);
    for (const int64_t rows : {int64_t{1}, said.prompt_rows}) {
      Predictor predictor(*twins.loaded.regressor, twins.host);
      State state;
      State* const states[] = {&state};
      const int64_t lengths[] = {rows};
      predictor.forward(Tensor(Shape{rows, twins.loaded.regressor->input_size()}, DType::kF32), {}, states, lengths);
      EXPECT_EQ(rows == 1 ? said.decode_bytes : said.prompt_bytes, predictor.arena().size_bytes()) << folder;
      EXPECT_EQ(said.state_bytes, state.bytes()) << folder;
    }
  }
}

TEST(Activations, AreWhatAForecastReserves) {
  const Twins twins(forecaster(), ModelKind::kForecaster);
  const Activations said = measure_activations(twins.shapes, twins.host);
  forecast::Tirex tirex(*twins.loaded.forecaster, twins.host);
  tirex.forecast({std::vector<float>(static_cast<size_t>(tirex.context()), 1.0f)}, {1});
  EXPECT_EQ(said.prompt_bytes, tirex.arena().size_bytes());
  EXPECT_EQ(said.decode_bytes, 0u);
}

}  // namespace
}  // namespace carousel::model
