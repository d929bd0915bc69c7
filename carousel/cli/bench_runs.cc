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
  RepeatedParams(const ModelFiles& files, const model::WeightTypes& types, const Stream& stream)
      : files_(files), types_(types), stream_(stream), drawn_(kDrawn) {
    Rng rng(kSeed);
    for (float& value : drawn_) value = static_cast<float>(rng.normal());
  }

  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const DType dtype = types_.held(name, cols, layout, init, files_.dtype_of(name));
    const int64_t slice = std::max<int64_t>(1, 4 * kDrawn / cols);  // rows written at once
    const int64_t slice_rows = std::min(slice, rows), count = slice_rows * cols;
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(cols)));
    Tensor values(Shape{count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) values.f32()[i] = scale * drawn_[static_cast<size_t>(i % kDrawn)];
    const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(cols));
    std::vector<std::byte> narrowed(static_cast<size_t>(slice_rows) * row_bytes);
    parallel_for(*stream_.pool, slice_rows, [&](int64_t row) {
      narrow(values.f32() + row * cols, dtype, narrowed.data() + static_cast<size_t>(row) * row_bytes,
             static_cast<size_t>(cols));
    });
    Weight weight = weight_for(init, rows, cols, dtype, layout);
    for (int64_t first = 0; first < rows; first += slice) {
      const int64_t here = std::min(slice, rows - first);
      if (!init.mask) {
        weight.write_rows(stream_, first, here, narrowed.data());
        continue;
      }
      std::vector<std::byte> masked = narrowed;
      clear_masked(stream_, *init.mask, first, here, dtype, masked.data());
      weight.write_rows(stream_, first, here, masked.data());
    }
    return weight;
  }

  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override {
    Tensor values(shape, DType::kF32);
    model::draw_param({name, shape, init}, kSeed, values.f32());
    return values;
  }

 private:
  const ModelFiles& files_;
  const model::WeightTypes& types_;
  const Stream& stream_;
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
  const bool blocks = is_block(cost.dtype), bf16 = stream.compute == Compute::kBF16 && cost.dtype == DType::kBF16;
  std::vector<double> read, compute;
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < tests.size(); ++i) {
      if (stop()) break;
      const double seconds = run_once(runner, tests[i], starts[i], tokens[i]);
      results[i].tokens_per_s.push_back(static_cast<double>(tests[i].tokens) / seconds);
    }
    if (stop()) break;
    const cpu::Bounds bounds = cpu::measure_bounds(stream, 1);
    read.push_back(bounds.read_gb_per_s);
    // The type most products are computed in; a set that lacks it makes do with f32.
    const double rate = blocks ? bounds.int8_gop_per_s : bf16 ? bounds.bf16_gflop_per_s : 0;
    compute.push_back(rate > 0 ? rate : bounds.f32_gflop_per_s);
  }
  for (BenchResult& result : results) {
    const double per_token =
        work(result.test, cost, lm.state_layout()) / static_cast<double>(std::max<int64_t>(1, result.test.tokens));
    result.achieved = median(result.tokens_per_s) * per_token * 1e-9;
    result.bound = median(result.test.decode ? read : compute);
  }
  return results;
}

std::unique_ptr<model::Lm> random_model(const ModelFiles& files, const model::WeightTypes& types,
                                        const Stream& stream) {
  if (files.config.kind != model::ModelKind::kLanguage) {
    fail(ErrorKind::kInput, "{}: model_type \"{}\" has no tokens, expected a language model", files.place.config,
         files.config.model_type);
  }
  model::check_memory(static_cast<size_t>(measure_cost(files, types).held_bytes), files.place.config);
  RepeatedParams params(files, types, stream);
  return std::make_unique<model::Lm>(files.config, params, files.place.config);
}

}  // namespace carousel::cli
