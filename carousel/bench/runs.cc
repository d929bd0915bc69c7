// SPDX-License-Identifier: Apache-2.0
// Times prompts and decoding of a model, and computes the floors of their times from what a token costs.
#include "carousel/bench/runs.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <span>

#include "carousel/bench/costs.h"
#include "carousel/core/error.h"
#include "carousel/core/quant_blocks.h"
#include "carousel/core/rng.h"
#include "carousel/cpu/bounds.h"
#include "carousel/model/params.h"

namespace carousel::bench {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int64_t kMostAttempts = 3;          // so many samples for each round asked for
constexpr int64_t kDrawn = int64_t{1} << 18;  // values drawn once and repeated over every matrix

/// Random blocks of a type that is not encoded here, with values of the size of `scale`.
void draw_blocks(Rng& rng, DType dtype, float scale, std::byte* out, size_t size_bytes) {
  const size_t block_bytes = dtype_bytes(dtype, block_values(dtype));
  const BlockForm& form = block_form(dtype);
  const F16 d = to_f16(4 * scale * largest_value(DType::kF16) / largest_value(dtype));
  for (size_t i = 0; i < size_bytes; ++i) out[i] = static_cast<std::byte>(rng.bits() >> 24);
  for (std::byte* block = out; block < out + size_bytes; block += block_bytes) {
    for (size_t s = 0; s < form.scales; ++s) std::memcpy(block + form.scale + s * sizeof d, &d, sizeof d);
  }
}

// Repeats a block of normal values, scaled so that activations stay of order one.
class RepeatedParams : public ParamSource {
 public:
  RepeatedParams(const model::ModelFiles& files, const model::WeightTypes& types, const Stream& stream)
      : files_(files), types_(types), stream_(stream), drawn_(kDrawn) {
    Rng rng(kSeed);
    for (float& value : drawn_) value = static_cast<float>(rng.normal());
  }

  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const DType dtype = types_.held(name, cols, layout, init, files_.dtype_of(name));
    const int64_t slice = std::max<int64_t>(1, 4 * kDrawn / cols);  // rows written at a time
    const int64_t slice_rows = std::min(slice, rows), count = slice_rows * cols;
    const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(cols)));
    Tensor values(Shape{count}, DType::kF32);
    for (int64_t i = 0; i < count; ++i) values.f32()[i] = scale * drawn_[static_cast<size_t>(i % kDrawn)];
    const size_t row_bytes = dtype_bytes(dtype, static_cast<size_t>(cols));
    std::vector<std::byte> narrowed(static_cast<size_t>(slice_rows) * row_bytes);
    const bool encodes = !is_block(dtype) || is_simple_block(dtype);
    if (!encodes) draw_blocks(blocks_rng_, dtype, scale, narrowed.data(), narrowed.size());
    parallel_for(*stream_.pool, encodes ? slice_rows : 0, [&](int64_t row) {
      narrow(values.f32() + row * cols, dtype, narrowed.data() + static_cast<size_t>(row) * row_bytes,
             static_cast<size_t>(cols));
    });
    Weight weight = weight_for(init, rows, cols, dtype, layout, *stream_.memory);
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
    return values.to(*stream_.memory);
  }

 private:
  const model::ModelFiles& files_;
  const model::WeightTypes& types_;
  const Stream& stream_;
  std::vector<float> drawn_;
  Rng blocks_rng_{kSeed, 1};
};

/// Decodes `tokens`, a token of every sequence in each forward.
void decode(model::Runner& runner, const std::vector<State*>& states, std::span<const int32_t> tokens,
            const std::function<bool()>& stop) {
  for (size_t begin = 0; begin < tokens.size() && !stop(); begin += states.size()) {
    runner.next_logits(tokens.subspan(begin, states.size()), states);
  }
}

double Sample::*rate_of(Peak peak) {
  return peak == Peak::kBF16 ? &Sample::bf16 : peak == Peak::kInt8 ? &Sample::int8 : &Sample::f32;
}

// The least time of one part of a test: the bytes it moves or the operations it computes, over their best rate.
struct Floor {
  double work = 0, seconds = 0;
  void add(double amount, double giga_per_s) {
    work += amount;
    seconds += amount / std::max(giga_per_s, 1e-9) * 1e-9;
  }
};

/// Seconds that the multiply-adds of `rows` rows need, each against the peak of the type it is computed in.
void add_products(Floor& floor, const std::map<DType, int64_t>& multiplies, double rows, const Stream& stream,
                  const Samples& samples) {
  for (const auto& [dtype, count] : multiplies) {
    floor.add(2 * rows * static_cast<double>(count), samples.median(rate_of(product_peak(stream, dtype))));
  }
}

/// The bytes of decoding: the weights are read once per forward, whatever the number of sequences; each sequence's
/// state of fixed size is read and written, its keys and values are read. Where the operations on either take longer
/// than its bytes, as with many sequences, they are its floor.
Floor decode_floor(const BenchTest& test, const model::ModelCost& cost, const model::Lm& lm, const Stream& stream,
                   const Samples& samples) {
  const StateLayout& layout = lm.state_layout();
  const auto tokens = static_cast<double>(test.tokens), batch = static_cast<double>(test.batch);
  const double row_bytes = static_cast<double>(layout.page_bytes()) / static_cast<double>(kPageRows);
  const double seen = static_cast<double>(test.depth) + (tokens + 1) / 2;  // rows of keys and values, on average
  Floor weights, memory, products, cells;
  weights.add(tokens * static_cast<double>(cost.decode_bytes), samples.median(&Sample::read));
  memory.add(batch * tokens * row_bytes * seen, samples.median(&Sample::read));
  memory.add(batch * tokens * 2 * static_cast<double>(model::fixed_state_bytes(layout)),
             samples.median(&Sample::scale));
  if (test.batch > 1) {
    add_products(products, cost.body_multiplies, tokens * batch, stream, samples);
    add_products(products, cost.head_multiplies, tokens * batch, stream, samples);
    const int64_t middle = test.depth + test.tokens / 2;
    cells.add(batch * tokens * lm.cell_flops(1, middle), samples.median(rate_of(cell_peak(stream))));
  }
  return {weights.work + memory.work,
          std::max(weights.seconds, products.seconds) + std::max(memory.seconds, cells.seconds)};
}

// Two operations per multiply-add of the projections, the head's for the last row alone; those of the cells against
// f32.
Floor prompt_floor(const BenchTest& test, const model::ModelCost& cost, const model::Lm& lm, const Stream& stream,
                   const Samples& samples) {
  Floor floor;
  add_products(floor, cost.body_multiplies, static_cast<double>(test.tokens), stream, samples);
  add_products(floor, cost.head_multiplies, 1, stream, samples);
  floor.add(lm.cell_flops(test.tokens, test.depth), samples.median(rate_of(cell_peak(stream))));
  return floor;
}

BenchResult summarise(const BenchTest& test, const Samples& samples, const Floor& floor) {
  BenchResult result;
  result.test = test;
  result.rejected = samples.rejected();
  for (const Sample& sample : samples.quiet())
    result.tokens_per_s.push_back(static_cast<double>(test.tokens * test.batch) / sample.seconds);
  if (samples.empty()) return result;
  result.achieved = floor.work / samples.median(&Sample::seconds) * 1e-9;
  result.bound = floor.work / std::max(floor.seconds, 1e-12) * 1e-9;
  return result;
}

int64_t rows_of(const BenchTest& test, const Stream& stream) {
  return std::min(test.tokens, model::prefill_rows(*stream.memory));
}

}  // namespace

std::vector<int32_t> random_tokens(int64_t count, int64_t vocab) {
  Rng rng(kSeed, 1);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.bits() % static_cast<uint64_t>(vocab)));
  return tokens;
}

double run_once(model::Runner& runner, const StateLayout& layout, const BenchTest& test, const State& start,
                const std::vector<int32_t>& tokens, const std::function<bool()>& stop) {
  std::vector<State> sequences;
  std::vector<State*> states;
  for (int64_t s = 0; s < test.batch; ++s) {
    sequences.push_back(State::from(start.tensors(layout), start.pos(), layout).to(*runner.stream().memory));
  }
  for (State& state : sequences) states.push_back(&state);
  runner.stop_when(stop);
  const auto begin = std::chrono::steady_clock::now();
  try {
    if (test.decode) {
      decode(runner, states, tokens, stop);
    } else if (const Tensor last = runner.prefill(tokens, sequences[0], stop); last.defined()) {
      runner.logits(last).to_host();
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCancelled) throw;
  }
  return std::max(1e-9, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

// The sequences that tests begin with are all held at once, beside the copies that run.
void check_memory(const model::Lm& lm, const Stream& stream, const std::vector<BenchTest>& tests) {
  size_t starts = 0, running = 0, activations = 0;
  for (const BenchTest& test : tests) {
    starts += lm.state_layout().bytes_at(test.depth);
    running = std::max(running, static_cast<size_t>(test.batch) * lm.state_layout().bytes_at(test.depth + test.tokens));
    const Numerics& native = Numerics::native();
    activations =
        std::max(activations, test.decode ? model::decode_activations(lm, stream, native, {}, test.batch)
                                          : model::prompt_activations(lm, stream, native, rows_of(test, stream)));
    if (test.depth == 0) continue;
    const int64_t before = std::min(test.depth, model::prefill_rows(*stream.memory));
    activations = std::max(activations, model::prompt_activations(lm, stream, Numerics::native(), before));
  }
  model::check_memory(starts + running + activations, "bench", "activations and sequences", *stream.memory);
}

std::vector<BenchResult> run_bench(const model::Lm& lm, const model::ModelCost& cost, const Stream& stream,
                                   const std::vector<BenchTest>& tests, int64_t rounds,
                                   const std::function<bool()>& stop) {
  check_memory(lm, stream, tests);
  model::Runner runner(lm, stream);
  std::vector<State> starts(tests.size());
  std::vector<Sampled> what;
  std::vector<size_t> peaks, activations;
  for (size_t i = 0; i < tests.size() && !stop(); ++i) {
    runner.stop_when({});
    runner.prefill(random_tokens(tests[i].depth, lm.vocab_size()), starts[i], stop);
    if (stop()) break;
    const std::vector<int32_t> tokens = random_tokens(tests[i].tokens * tests[i].batch, lm.vocab_size());
    run_once(runner, lm.state_layout(), tests[i], starts[i], tokens,
             stop);  // untimed: memory is allocated and every page touched
    Sampled sampled;
    sampled.run = [&, i, tokens] { return run_once(runner, lm.state_layout(), tests[i], starts[i], tokens, stop); };
    for (const auto* multiplies : {&cost.body_multiplies, &cost.head_multiplies}) {
      for (const auto& [dtype, count] : *multiplies) {
        const bool computes = !tests[i].decode || tests[i].batch > 1;
        sampled.needs_int8 |= computes && product_peak(stream, dtype) == Peak::kInt8;
        sampled.needs_bf16 |= computes && product_peak(stream, dtype) == Peak::kBF16;
      }
    }
    what.push_back(sampled);
    peaks.push_back(peak_memory_bytes());
    const Numerics& native = Numerics::native();
    activations.push_back(tests[i].decode
                              ? model::decode_activations(lm, stream, native, starts[i], tests[i].batch)
                              : model::prompt_activations(lm, stream, native, rows_of(tests[i], stream), starts[i]));
  }
  const std::vector<Samples> samples = take_samples(what, stream, rounds, kMostAttempts * rounds, stop);
  std::vector<BenchResult> results;
  for (size_t i = 0; i < samples.size(); ++i) {
    if (samples[i].empty()) continue;  // stopped before
    results.push_back(summarise(tests[i], samples[i],
                                tests[i].decode ? decode_floor(tests[i], cost, lm, stream, samples[i])
                                                : prompt_floor(tests[i], cost, lm, stream, samples[i])));
    results.back().peak_bytes = peaks[i];
    results.back().activation_bytes = activations[i];
    results.back().in_cache =
        !stream.memory->is_apart() && static_cast<size_t>(cost.decode_bytes) < cpu::last_level_cache_bytes();
  }
  return results;
}

std::unique_ptr<model::Lm> random_model(const model::ModelFiles& files, const model::WeightTypes& types,
                                        const Stream& stream) {
  if (files.config.kind != model::ModelKind::kLanguage) {
    fail(ErrorKind::kInput, "{}: model_type \"{}\" has no tokens, expected a language model", files.place.config,
         files.config.model_type);
  }
  model::check_memory(static_cast<size_t>(model::measure_cost(files, types, *stream.memory).held_bytes),
                      files.place.config, "weights", *stream.memory);
  const model::WeightTypes chosen = model::with_mix(types, files.config, files.place.config);
  RepeatedParams params(files, chosen, stream);
  return std::make_unique<model::Lm>(files.config, params, files.place.config);
}

}  // namespace carousel::bench
