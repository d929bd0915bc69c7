// SPDX-License-Identifier: Apache-2.0
// carousel bench: prompt and decode speed as a table, beside what the machine could do at best at that moment. The
// measuring is bench_runs; the bounds are cpu/bounds.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "carousel/bench/ops.h"
#include "carousel/bench/runs.h"
#include "carousel/bench/training.h"
#include "carousel/cli/bench_kernels.h"
#include "carousel/cli/bench_op.h"
#include "carousel/cli/bench_serve.h"
#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/signals.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/cpu/bounds.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 24;
constexpr int64_t kMaxRounds = 1000;

struct BenchOptions {
  std::string model;
  std::vector<int64_t> prompts{512};
  std::vector<int64_t> decodes{64};
  std::vector<int64_t> depths{0};
  int64_t rounds = 5;
  bool random = false;
  WeightOptions weights;
  bool bounds = false;
  bench::OpOptions op;
  bool train = false, recompute = false, kernels = false;
  BenchServeOptions serve;
  bool json = false;
  Machine machine;
};

// The words on the model in every line of the table.
struct Label {
  std::string model, backend;
  int64_t bytes = 0, parameters = 0;
  int64_t token_bytes = 0, active_parameters = 0;  // the part of these that decoding a token reads
  int threads = 0;
};

std::string in_millions(int64_t count) {
  const auto value = static_cast<double>(count);
  return value >= 1e9 ? fmt::format("{:.2f} B", value * 1e-9) : fmt::format("{:.2f} M", value * 1e-6);
}

std::vector<bench::BenchTest> plan(const BenchOptions& options) {
  std::vector<bench::BenchTest> tests;
  for (const int64_t depth : options.depths) {
    for (const int64_t tokens : options.prompts) {
      if (tokens > 0) tests.push_back({false, tokens, depth});
    }
    for (const int64_t tokens : options.decodes) {
      for (const int64_t batch : options.op.batch) {
        if (tokens > 0) tests.push_back({true, tokens, depth, batch});
      }
    }
  }
  if (tests.empty()) fail(ErrorKind::kUsage, "bench: got no test, expected -p or -n above 0");
  return tests;
}

std::string test_name(const bench::BenchTest& test) {
  std::string name = fmt::format("{}{}", test.decode ? "tg" : "pp", test.tokens);
  if (test.batch > 1) name += fmt::format(" x {}", test.batch);
  return test.depth == 0 ? name : fmt::format("{} @ d{}", name, test.depth);
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

double deviation(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  double sum = 0;
  for (const double value : values) sum += (value - mean(values)) * (value - mean(values));
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double percent(const bench::BenchResult& result) { return result.bound > 0 ? 100 * result.achieved / result.bound : 0; }

/// A share of the bound, marked where it does not say how well the memory is used.
std::string marked_percent(const bench::BenchResult& result) {
  return fmt::format("{:.1f}{}{}", percent(result), percent(result) > 100 ? " >" : "", result.in_cache ? " c" : "");
}

/// Says what the marks in the table mean.
void print_marks(const std::vector<bench::BenchResult>& results) {
  const auto any = [&](const auto& is) { return std::any_of(results.begin(), results.end(), is); };
  if (any([](const bench::BenchResult& result) { return percent(result) > 100; })) print_above_mark();
  if (any([](const bench::BenchResult& result) { return result.in_cache; }))
    fmt::print("c what a token reads fits into the last level of cache, the bound is that of memory\n");
}

void print_table(const Label& label, const std::vector<bench::BenchResult>& results) {
  std::vector<std::vector<std::string>> rows = {{"model", "size", "per token", "params", "peak", "backend", "threads",
                                                 "test", "t/s", "achieved", "bound", "% of bound", "rejected"}};
  for (const bench::BenchResult& result : results) {
    const char* unit = result.test.decode ? "GB/s" : "GFLOP/s";
    rows.push_back({label.model, in_binary_units(static_cast<double>(label.bytes)),
                    in_binary_units(static_cast<double>(label.token_bytes)), in_millions(label.parameters),
                    in_binary_units(static_cast<double>(result.peak_bytes)), label.backend,
                    std::to_string(label.threads), test_name(result.test),
                    fmt::format("{:.2f} ± {:.2f}", mean(result.tokens_per_s), deviation(result.tokens_per_s)),
                    fmt::format("{:.1f} {}", result.achieved, unit), fmt::format("{:.1f} {}", result.bound, unit),
                    marked_percent(result),
                    fmt::format("{}/{}", result.rejected, result.rejected + result.tokens_per_s.size())});
  }
  constexpr size_t kNames = 6;  // columns of words, to the left
  std::vector<size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line = "|", rule = "|";
    for (size_t i = 0; i < widths.size(); ++i) {
      line += i < kNames ? fmt::format(" {:<{}} |", rows[r][i], widths[i])
                         : fmt::format(" {:>{}} |", rows[r][i], widths[i]);
      rule += " " + std::string(widths[i] - (i < kNames ? 0 : 1), '-') + (i < kNames ? " |" : ": |");
    }
    fmt::print("{}\n", line);
    if (r == 0) fmt::print("{}\n", rule);
  }
  print_marks(results);
}

Json to_json(const Label& label, const std::vector<bench::BenchResult>& results) {
  Json lines = Json::array();
  for (const bench::BenchResult& result : results) {
    lines.push_back({{"model", label.model},
                     {"size_bytes", label.bytes},
                     {"parameters", label.parameters},
                     {"active_parameters", label.active_parameters},
                     {"weight_bytes_per_token", label.token_bytes},
                     {"backend", label.backend},
                     {"threads", label.threads},
                     {"test", test_name(result.test)},
                     {"tokens", result.test.tokens},
                     {"depth", result.test.depth},
                     {"batch", result.test.batch},
                     {"tokens_per_s", mean(result.tokens_per_s)},
                     {"tokens_per_s_deviation", deviation(result.tokens_per_s)},
                     {"samples", result.tokens_per_s},
                     {"rejected", result.rejected},
                     {"peak_bytes", result.peak_bytes},
                     {"activation_bytes", result.activation_bytes},
                     {result.test.decode ? "gb_per_s" : "gflop_per_s", result.achieved},
                     {"bound", result.bound},
                     {"percent_of_bound", percent(result)},
                     {"above_bound", percent(result) > 100},
                     {"in_cache", result.in_cache}});
  }
  return lines;
}

Json to_json(const cpu::Bounds& bounds, const Stream& stream) {
  Json caches = Json::array();
  for (const cpu::CacheRead& cache : bounds.caches)
    caches.push_back({{"bytes_per_thread", cache.bytes_per_thread}, {"gb_per_s", cache.gb_per_s}});
  return {{"read_gb_per_s", bounds.read_gb_per_s},     {"scale_gb_per_s", bounds.scale_gb_per_s},
          {"f32_gflop_per_s", bounds.f32_gflop_per_s}, {"bf16_gflop_per_s", bounds.bf16_gflop_per_s},
          {"int8_gop_per_s", bounds.int8_gop_per_s},   {"cache_read", caches},
          {"isa", cpu::isa_name(stream.isa)},          {"threads", stream.pool->threads()}};
}

void print_bounds(const cpu::Bounds& bounds, const Stream& stream) {
  fmt::print("bounds of {} threads, {}\n", stream.pool->threads(), cpu::isa_name(stream.isa));
  fmt::print("  read memory      {:10.1f} GB/s\n", bounds.read_gb_per_s);
  fmt::print("  scale in place   {:10.1f} GB/s read and written\n", bounds.scale_gb_per_s);
  fmt::print("  f32 multiply-add {:10.1f} GFLOP/s\n", bounds.f32_gflop_per_s);
  if (bounds.bf16_gflop_per_s > 0) fmt::print("  bf16 dot product {:10.1f} GFLOP/s\n", bounds.bf16_gflop_per_s);
  fmt::print("  int8 dot product {:10.1f} GOP/s\n", bounds.int8_gop_per_s);
  for (const cpu::CacheRead& cache : bounds.caches) {
    fmt::print("  read cache       {:10.1f} GB/s, {} per thread\n", cache.gb_per_s,
               in_binary_units(static_cast<double>(cache.bytes_per_thread)));
  }
}

Json bench_bounds(const BenchOptions& options, const Stream& stream) {
  if (const std::optional<DeviceRates> rates = stream.memory->measure_rates()) {
    if (!options.json) {
      fmt::print("bounds of {}\n", options.machine.device);
      fmt::print("  copy memory      {:10.1f} GB/s read and written\n", rates->copy_gb_per_s);
      fmt::print("  f32 multiply-add {:10.1f} GFLOP/s\n", rates->f32_gflop_per_s);
      fmt::print("  bf16 product     {:10.1f} GFLOP/s\n", rates->bf16_gflop_per_s);
    }
    return {{"copy_gb_per_s", rates->copy_gb_per_s},
            {"f32_gflop_per_s", rates->f32_gflop_per_s},
            {"bf16_gflop_per_s", rates->bf16_gflop_per_s},
            {"device", options.machine.device}};
  }
  const cpu::Bounds bounds = cpu::measure_bounds(stream, static_cast<int>(options.rounds), interrupted);
  if (!options.json) print_bounds(bounds, stream);
  return to_json(bounds, stream);
}

// Prints the load average: a busy machine explains a bad number.
void print_load() {
  double load[3] = {0, 0, 0};
  if (getloadavg(load, 3) == 3) note(fmt::format("load average: {:.2f} {:.2f} {:.2f}", load[0], load[1], load[2]));
}

model::Model load_model(const BenchOptions& options, const model::ModelFiles& files, const model::WeightTypes& types,
                        const Stream& stream) {
  if (!options.random)
    return model::load(options.model, stream, model::ModelKind::kLanguage, Numerics::native(), types);
  model::Model drawn;
  drawn.config = files.config;
  drawn.lm = bench::random_model(files, types, stream);
  drawn.fingerprint = "random";
  return drawn;
}

Json bench_server(const BenchOptions& options, const Stream& stream) {
  const model::ModelFiles files = model::open_model_files(options.model);
  model::Model loaded = load_model(options, files, options.weights.types().in(*stream.memory), stream);
  if (!options.bounds) print_load();
  return bench_serve(options.serve, loaded, stream, options.rounds, options.json);
}

/// Adds "tests" to `out`, with --kernels "kernels".
void bench_model(const BenchOptions& options, const Stream& stream, Json& out) {
  const std::vector<bench::BenchTest> tests = plan(options);
  const model::ModelFiles files = model::open_model_files(options.model);
  const model::WeightTypes types = options.weights.types().in(*stream.memory);
  reset_peak_memory();
  const model::Model loaded = load_model(options, files, types, stream);
  const model::ModelCost cost = model::measure_cost(files, types, *stream.memory);
  const model::ModelSize size = model::measure(files.config, files.place.config);
  Label label;
  label.model = fmt::format("{} {}", files.config.model_type, dtype_name(cost.dtype));
  const std::string cpu = fmt::format("CPU {}{}", cpu::isa_name(stream.isa), types.mapped ? " mmap" : "");
  label.backend = stream.memory->is_apart() ? options.machine.device : cpu;
  label.bytes = cost.held_bytes;
  label.parameters = size.parameters;
  label.token_bytes = cost.decode_bytes;
  label.active_parameters = size.active_parameters - cost.active_masked;
  label.threads = stream.pool->threads();
  if (!options.bounds) print_load();
  const std::vector<bench::BenchResult> results =
      bench::run_bench(*loaded.lm, cost, stream, tests, options.rounds, interrupted);
  if (!options.json) print_table(label, results);
  out["tests"] = to_json(label, results);
  if (!options.kernels || interrupted()) return;
  out["kernels"] = kernel_lines(bench::time_kernels(*loaded.lm, stream, tests, options.rounds, interrupted));
  if (!options.json) print_kernel_lines(out["kernels"]);
}

/// One object per batch and rows; printed as a table without --json.
Json bench_training(const BenchOptions& options, const Stream& stream) {
  Json lines = Json::array();
  const std::vector<int64_t> all_rows = options.op.rows.empty() ? std::vector<int64_t>{512} : options.op.rows;
  for (const int64_t batch : options.op.batch) {
    for (const int64_t rows : all_rows) {
      const bench::TrainShape shape = {batch, rows, options.recompute};
      const bench::TrainResult result =
          bench::run_train_bench(options.model, stream, shape, options.rounds, interrupted);
      if (result.tokens_per_s.empty()) continue;
      const double share = 100 * result.gflop_per_s / std::max(result.peak_gflop_per_s, 1e-9);
      lines.push_back({{"batch", batch},
                       {"rows", rows},
                       {"recompute", options.recompute},
                       {"threads", stream.threads()},
                       {"isa", cpu::isa_name(stream.isa)},
                       {"tokens_per_s", mean(result.tokens_per_s)},
                       {"tokens_per_s_deviation", deviation(result.tokens_per_s)},
                       {"samples", result.tokens_per_s},
                       {"rejected", result.rejected},
                       {"matrix_gflop_per_s", result.gflop_per_s},
                       {"f32_gflop_per_s", result.peak_gflop_per_s},
                       {"percent_of_peak", share},
                       {"peak_bytes", result.peak_bytes},
                       {"activation_bytes", result.activation_bytes}});
      if (options.json) continue;
      fmt::print(
          "training {} x {}{}: {:.1f} ± {:.1f} tok/s; matrix products {:.1f} of {:.1f} GFLOP/s, {:.1f} %; {} of "
          "activations, {} at most; {} rejected\n",
          batch, rows, options.recompute ? ", recomputed" : "", mean(result.tokens_per_s),
          deviation(result.tokens_per_s), result.gflop_per_s, result.peak_gflop_per_s, share,
          in_binary_units(static_cast<double>(result.activation_bytes)),
          in_binary_units(static_cast<double>(result.peak_bytes)), result.rejected);
    }
  }
  return lines;
}

// Without a model the types are for the op's own weights, which only linear has.
void check_weights(const BenchOptions& options) {
  if (options.op.op.empty() || !options.model.empty()) return;
  const WeightOptions& given = options.weights;
  if (given.mapped) fail(ErrorKind::kUsage, "--mmap: got --op {}, expected a model", options.op.op);
  if (given.weights != "auto" && options.op.op != "linear") {
    fail(ErrorKind::kUsage, "--weights: got {} for --op {}, expected --op linear", given.weights, options.op.op);
  }
  const std::pair<const char*, const std::string&> parts[] = {
      {"--embeddings", given.embeddings}, {"--head", given.head}, {"--gates", given.gates}};
  for (const auto& [flag, type] : parts) {
    if (type != "auto") fail(ErrorKind::kUsage, "{}: got {} for --op {}, expected a model", flag, type, options.op.op);
  }
}

void check_serve(const BenchOptions& options) {
  if (!options.serve.asked && !options.serve.only.empty())
    fail(ErrorKind::kUsage, "--only: got {} without --serve", options.serve.only.front());
  if (options.serve.asked && options.model.empty()) fail(ErrorKind::kUsage, "--serve: got no model, expected one");
  if (options.serve.asked && options.train)
    fail(ErrorKind::kUsage, "bench: got --serve and --train, expected one of them");
}

int run_command(BenchOptions& options) {
  if (options.random && options.weights.mapped)
    fail(ErrorKind::kUsage, "bench: got --mmap with --random, whose weights are in no file");
  if (options.model.empty() && !options.bounds && options.op.op.empty())
    fail(ErrorKind::kUsage, "bench: got nothing to measure, expected a model, --op or --bounds");
  if (!options.op.op.empty() && !options.model.empty())
    fail(ErrorKind::kUsage, "bench: got --op {} and a model, {}, expected one of them", options.op.op, options.model);
  if (options.kernels && (options.model.empty() || options.train || options.serve.asked))
    fail(ErrorKind::kUsage, "--kernels: expected a model, without --train and --serve");
  if (options.train && options.model.empty()) fail(ErrorKind::kUsage, "--train: got no model, expected one");
  check_serve(options);
  check_weights(options);
  catch_interrupts();
  end_by_itself();  // the results so far are shown, even if a probe of the bounds takes long
  const Stream stream = options.machine.stream();
  if (!kernel_traits(*stream.memory).trains && (options.train || options.op.backward)) {
    fail(ErrorKind::kDevice, "--device: got {}, expected cpu for --train and --backward", options.machine.device);
  }
  Json json = Json::object();
  if (options.bounds) {
    print_load();
    json["bounds"] = bench_bounds(options, stream);
  }
  if (!options.op.op.empty()) {
    if (!options.bounds) print_load();
    const DType weights = options.weights.types().body.value_or(DType::kF32);
    const std::vector<bench::OpCase> cases = bench::op_cases(options.op, options.depths, weights, stream);
    const std::vector<bench::OpResult> results = bench::measure_ops(cases, stream, options.rounds, interrupted);
    json["ops"] = op_lines(options.op.op, cases, results, stream, options.machine.device);
    if (!options.json) print_op_lines(json["ops"]);
  }
  if (options.train) {
    if (!options.bounds) print_load();
    json["training"] = bench_training(options, stream);
  } else if (options.serve.asked) {
    json["serving"] = bench_server(options, stream);
  } else if (!options.model.empty()) {
    bench_model(options, stream, json);
  }
  set_last_will({});
  if (options.json) fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
  if (!interrupted()) return 0;
  note("interrupted: figures are of the samples taken until then");
  return kInterruptedStatus;
}

}  // namespace

std::function<int()> setup_bench(CLI::App& app) {
  const auto options = std::make_shared<BenchOptions>();
  app.add_option("model", options->model, "Model folder, .gguf or .safetensors; with --random, a config.json will do");
  add_integers(app, "-p,--n-prompt", options->prompts, 0, kMaxTokens, "Prompt lengths; 0: no such test");
  add_integers(app, "-n,--n-gen", options->decodes, 0, kMaxTokens, "Numbers of tokens to decode; 0: no such test");
  add_integers(app, "-d,--n-depth", options->depths, 0, kMaxTokens, "Tokens a sequence has seen before a test");
  add_integer(app, "-r,--repetitions", options->rounds, 1, kMaxRounds, "Rounds; each runs every test once");
  app.add_flag("--bounds", options->bounds, "Print the machine's bounds (alone, without a model)");
  app.add_flag("--random", options->random, "Weights of random numbers, in the shapes of the config");
  app.add_flag("--train", options->train, "Measure training steps of --batch sequences of --rows tokens");
  app.add_flag("--recompute", options->recompute, "--train: keep the inputs of sublayers alone");
  app.add_flag("--kernels", options->kernels, "Also time the ops of a token and of a prompt, beside their bounds");
  add_serve_options(app, options->serve);
  options->weights.add_options(app);
  options->weights.add_mmap(app);
  app.add_flag("--json", options->json, "Results as JSON");
  add_op_options(app, options->op);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options] { return run_command(*options); };
}

}  // namespace carousel::cli
