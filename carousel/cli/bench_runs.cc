// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/bench_runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/model/params.h"
#include "carousel/model/runner.h"

namespace carousel::cli {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int64_t kDrawn = int64_t{1} << 18;  // values drawn once and repeated over every matrix

// Repeats a block of normal values, scaled so that activations stay of order one.
class RepeatedParams : public ParamSource {
 public:
  RepeatedParams(const Stream& stream, DType dtype) : stream_(stream), dtype_(dtype), drawn_(kDrawn) {
    Rng rng(kSeed);
    for (float& value : drawn_) value = static_cast<float>(rng.normal());
  }

  Weight matrix(const std::string&, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const int64_t slice = std::max<int64_t>(1, 4 * kDrawn / cols);  // rows written at once
    const int64_t count = std::min(slice, rows) * cols;
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(cols)));
    Tensor values(Shape{count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) values.f32()[i] = scale * drawn_[static_cast<size_t>(i % kDrawn)];
    Tensor narrowed(Shape{count}, dtype_);
    narrow(values.f32(), dtype_, narrowed.raw(), static_cast<size_t>(count));
    Weight weight = weight_for(init, rows, cols, dtype_, layout);
    for (int64_t first = 0; first < rows; first += slice) {
      const int64_t here = std::min(slice, rows - first);
      const Tensor written = init.mask ? narrowed.clone() : narrowed;
      if (init.mask) {
        clear_masked(stream_, *init.mask, first, here, dtype_, static_cast<std::byte*>(written.raw()));
      }
      weight.write_rows(stream_, first, here, written.raw());
    }
    return weight;
  }

  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override {
    Tensor values(shape, DType::kF32);
    model::draw_param({name, shape, init}, kSeed, values.f32());
    return values;
  }

 private:
  const Stream& stream_;
  DType dtype_;
  std::vector<float> drawn_;
};

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab) {
  Rng rng(kSeed, 1);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab)));
  return tokens;
}

// Runs one test on a copy of the state it starts from; returns seconds.
double run_once(model::Runner& runner, const BenchTest& test, const State& start, const std::vector<int32_t>& tokens) {
  State state = start;
  const auto begin = std::chrono::steady_clock::now();
  if (test.decode) {
    State* const states[] = {&state};
    const int64_t lengths[] = {1};
    for (const int32_t& token : tokens) runner.logits(runner.forward({&token, 1}, states, lengths));
  } else {
    runner.logits(runner.prefill(tokens, state));
  }
  return std::max(1e-9, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

// What a run moves (decode, bytes) or computes (prompt, operations): weights once per token and the state in and out;
// two operations per multiply-add of the projections, the head for the last row alone.
double work(const BenchTest& test, const ModelCost& cost, const StateLayout& layout) {
  const auto tokens = static_cast<double>(test.tokens);
  if (!test.decode)
    return 2 * (tokens * static_cast<double>(cost.body_multiplies) + static_cast<double>(cost.head_multiplies));
  const double row_bytes = static_cast<double>(layout.page_bytes()) / static_cast<double>(kPageRows);
  const double seen = static_cast<double>(test.depth) + (tokens + 1) / 2;  // rows of keys and values, on average
  return tokens * (static_cast<double>(cost.decode_bytes) + 2 * static_cast<double>(fixed_state_bytes(layout)) +
                   row_bytes * seen);
}

}  // namespace

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::vector<BenchResult> run_bench(const model::Lm& lm, const ModelCost& cost, const Stream& stream,
                                   const std::vector<BenchTest>& tests, int64_t rounds,
                                   const std::function<bool()>& stop) {
  model::Runner runner(lm, stream);
  std::vector<State> starts;
  std::vector<std::vector<int32_t>> tokens;
  std::vector<BenchResult> results;
  for (const BenchTest& test : tests) {
    starts.emplace_back();
    runner.prefill(random_tokens(test.depth, lm.vocab_size()), starts.back(), stop);
    tokens.push_back(random_tokens(test.tokens, lm.vocab_size()));
    results.push_back({test, {}, 0, 0});
    if (stop()) return results;
    run_once(runner, test, starts.back(), tokens.back());  // memory is had, pages are touched
  }
  std::vector<double> read, f32;
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < tests.size(); ++i) {
      if (stop()) break;
      const double seconds = run_once(runner, tests[i], starts[i], tokens[i]);
      results[i].tokens_per_s.push_back(static_cast<double>(tests[i].tokens) / seconds);
    }
    if (stop()) break;
    const cpu::Bounds bounds = cpu::measure_bounds(stream, 1);
    read.push_back(bounds.read_gb_per_s);
    f32.push_back(bounds.f32_gflop_per_s);
  }
  for (BenchResult& result : results) {
    const double per_token =
        work(result.test, cost, lm.state_layout()) / static_cast<double>(std::max<int64_t>(1, result.test.tokens));
    result.achieved = median(result.tokens_per_s) * per_token * 1e-9;
    result.bound = median(result.test.decode ? read : f32);
  }
  return results;
}

std::unique_ptr<model::Lm> random_model(const ModelFiles& files, DType dtype, const Stream& stream) {
  if (files.config.kind != model::ModelKind::kLanguage) {
    fail(ErrorKind::kInput, "{}: model_type \"{}\" has no tokens, expected a language model", files.place.config,
         files.config.model_type);
  }
  const int64_t parameters = model::measure(files.config, files.place.config).parameters;
  model::check_memory(static_cast<size_t>(parameters) * dtype_size(dtype), files.place.config);
  RepeatedParams params(stream, dtype);
  return std::make_unique<model::Lm>(files.config, params, files.place.config);
}

}  // namespace carousel::cli
