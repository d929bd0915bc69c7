// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/bench_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string_view>

#include "carousel/cli/bench_samples.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/core/error.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxSize = int64_t{1} << 26;
constexpr int64_t kMostAttempts = 6;  // times the rounds asked for
constexpr double kSampleSeconds = 0.02;

struct OpResult {
  double seconds = 0, bound_seconds = 0;
  std::string bound;  // which
  double rate = 0;    // of that bound
  size_t samples = 0, rejected = 0;
};

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double run_for(const OpCase& test, double seconds, size_t& slot) {
  const auto start = Clock::now();
  int64_t calls = 0;
  do {
    test.run(slot);
    slot = (slot + 1) % test.ring;
    ++calls;
  } while (since(start) < seconds);
  return since(start) / static_cast<double>(calls);
}

/// A set that lacks a type makes do with f32.
struct PeakOf {
  const char* name;
  double rate;
};
PeakOf peak_of(const OpCase& test, const Samples& samples) {
  const double int8 = samples.median(&Sample::int8), bf16 = samples.median(&Sample::bf16);
  if (test.peak == Peak::kInt8 && int8 > 0) return {"int8", int8};
  if (test.peak == Peak::kBF16 && bf16 > 0) return {"bf16", bf16};
  return {"f32", samples.median(&Sample::f32)};
}

OpResult summarise(const OpCase& test, const Samples& samples) {
  OpResult result;
  result.samples = samples.quiet().size();
  result.rejected = samples.rejected();
  result.seconds = samples.median(&Sample::seconds);
  const auto consider = [&](double seconds, double rate, const std::string& name) {
    if (seconds <= result.bound_seconds) return;
    result.bound_seconds = seconds;
    result.bound = name;
    result.rate = rate;
  };
  const double read = samples.median(&Sample::read);
  const double scale = samples.median(&Sample::scale), cache = samples.median(&Sample::cache);
  const PeakOf peak = peak_of(test, samples);
  consider(test.flops / peak.rate * 1e-9, peak.rate, peak.name);
  // A byte written goes with a byte read, as in scaling; what is left is only read or only written.
  const double pairs = std::min(test.read_bytes, test.written_bytes);
  const double memory =
      ((test.written_bytes + pairs) / std::max(scale, 1e-9) + (test.read_bytes - pairs) / std::max(read, 1e-9)) * 1e-9;
  consider(memory, memory > 0 ? (test.read_bytes + test.written_bytes) / memory * 1e-9 : 0, "memory");
  if (cache > 0)
    consider(test.cache_bytes / cache * 1e-9, cache,
             fmt::format("cache {}", in_binary_units(static_cast<double>(test.cached_bytes))));
  return result;
}

Json to_json(const OpOptions& options, const OpCase& test, const OpResult& result, const Stream& stream) {
  return {{"op", options.op},
          {"shape", test.shape},
          {"isa", cpu::isa_name(stream.isa)},
          {"threads", stream.pool->threads()},
          {"seconds", result.seconds},
          {"gflop_per_s", test.flops / result.seconds * 1e-9},
          {"gb_per_s", (test.read_bytes + test.written_bytes + test.cache_bytes) / result.seconds * 1e-9},
          {"bound", result.bound},
          {"bound_rate", result.rate},
          {"percent_of_bound", 100 * result.bound_seconds / result.seconds},
          {"samples", result.samples},
          {"rejected", result.rejected}};
}

const char* unit_of(const std::string& bound) {
  if (bound == "int8") return "GOP/s";
  return bound == "f32" || bound == "bf16" ? "GFLOP/s" : "GB/s";
}

void print_rows(const Json& lines) {
  fmt::print("{:<10} {:<34} {:>7} {:>12} {:>9} {:>8}  {:<26} {:>7} {:>9}\n", "op", "shape", "threads", "us/call",
             "GFLOP/s", "GB/s", "bound", "% of it", "rejected");
  for (const Json& line : lines) {
    const auto number = [&](const char* key) { return line.at(key).get<double>(); };
    const auto bound = line.at("bound").get<std::string>();
    fmt::print("{:<10} {:<34} {:>7} {:>12.1f} {:>9.1f} {:>8.1f}  {:<26} {:>7.1f} {:>9}\n",
               line.at("op").get<std::string>(), line.at("shape").get<std::string>(), line.at("threads").get<int>(),
               1e6 * number("seconds"), number("gflop_per_s"), number("gb_per_s"),
               fmt::format("{}: {:.1f} {}", bound, number("bound_rate"), unit_of(bound)), number("percent_of_bound"),
               fmt::format("{}/{}", line.at("rejected").get<int64_t>(),
                           line.at("rejected").get<int64_t>() + line.at("samples").get<int64_t>()));
  }
}

}  // namespace

void OpOptions::add_options(CLI::App& app) {
  add_choice(app, "--op", op, op_names(), "Measure one op instead of a model; -d and --weights apply");
  add_integers(app, "--rows", rows, 1, kMaxSize, "--op: rows of each sequence (1,512; slstm 512)")->default_str("");
  add_integers(app, "--batch", batch, 1, 65536, "--op: sequences");
  const auto add = [&](const char* name, int64_t& value, const char* help) {
    add_integer(app, name, value, 1, kMaxSize, help)->default_str("");
  };
  add("--heads", heads, "--op slstm, mlstm, attention: heads (4, 8, 32)");
  add("--kv-heads", kv_heads, "--op attention: heads of keys and values (a fourth of the heads)");
  add("--head-dim", head_dim, "--op slstm, mlstm, attention: width of a head's queries and keys (256, 256, 64)");
  add("--value-dim", value_dim, "--op mlstm: width of a head's values (twice the keys')");
  add("--in", in, "--op linear, short_conv, norm: width (4096, 2048, 2048)");
  add("--out", out, "--op linear: width of the result (4096)");
  add_integers(app, "--sparsity", sparsity, 0, 100, "--op linear: percent of the weights that a random wiring masks");
  add("--taps", taps, "--op short_conv: taps (3)");
}

Json bench_op(const OpOptions& options, const std::vector<OpCase>& cases, const Stream& stream, int64_t rounds,
              bool json, const std::function<bool()>& stop) {
  std::vector<size_t> slots(cases.size(), 0);
  std::vector<Sampled> what;
  for (size_t i = 0; i < cases.size(); ++i) {
    // Memory is had, pages touched: once round and once more, as a result is made before the one it replaces goes.
    for (size_t slot = 0; slot <= cases[i].ring && !stop(); ++slot) cases[i].run(slot % cases[i].ring);
    what.push_back({[&, i] { return run_for(cases[i], kSampleSeconds, slots[i]); }, cases[i].cached_bytes,
                    cases[i].peak == Peak::kBF16, cases[i].peak == Peak::kInt8});
  }
  const std::vector<Samples> samples = take_samples(what, stream, rounds, kMostAttempts * rounds, stop);
  Json lines = Json::array();
  for (size_t i = 0; i < cases.size(); ++i) {
    if (!samples[i].empty()) lines.push_back(to_json(options, cases[i], summarise(cases[i], samples[i]), stream));
  }
  if (!json) print_rows(lines);
  return lines;
}

}  // namespace carousel::cli
