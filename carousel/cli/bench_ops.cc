// SPDX-License-Identifier: Apache-2.0
// Every sample is taken between probes of what bounds it, so a busy neighbour slows both. A sample with an f32 probe
// before or after it below kQuiet of the best is rejected and taken again, a limited number of times.
#include "carousel/cli/bench_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <string_view>

#include "carousel/cli/bench_runs.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/core/error.h"
#include "carousel/cpu/bounds.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMaxSize = int64_t{1} << 26;
constexpr double kQuiet = 0.9;
constexpr int64_t kMostAttempts = 6;  // times the rounds asked for
constexpr size_t kProbeMemory = size_t{256} << 20;
constexpr double kProbeSeconds = 0.004;
constexpr double kSampleSeconds = 0.02;

struct Sample {
  double seconds = 0;  // of one call
  double f32 = 0, read = 0, scale = 0, cache = 0;
  double quiet = 0;  // the slower f32 probe of the two around it
};

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

Sample take_sample(const OpCase& test, cpu::BoundsProbe& probe, size_t& slot) {
  Sample sample;
  sample.read = probe.read_gb_per_s();
  sample.scale = probe.scale_gb_per_s();
  if (test.cached_bytes > 0) sample.cache = probe.cache_read_gb_per_s(test.cached_bytes);
  const double before = probe.f32_gflop_per_s();
  sample.seconds = run_for(test, kSampleSeconds, slot);
  const double after = probe.f32_gflop_per_s();
  sample.f32 = std::max(before, after);
  sample.quiet = std::min(before, after);
  return sample;
}

double median_of(const std::vector<Sample>& samples, double Sample::*field) {
  std::vector<double> values;
  for (const Sample& sample : samples) values.push_back(sample.*field);
  return median(values);
}

std::vector<Sample> quiet_ones(const std::vector<Sample>& samples) {
  double best = 0;
  for (const Sample& sample : samples) best = std::max(best, sample.quiet);
  std::vector<Sample> quiet;
  for (const Sample& sample : samples) {
    if (sample.quiet >= kQuiet * best) quiet.push_back(sample);
  }
  return quiet;
}

OpResult summarise(const OpCase& test, const std::vector<Sample>& samples) {
  const std::vector<Sample> quiet = quiet_ones(samples);
  OpResult result;
  result.samples = quiet.size();
  result.rejected = samples.size() - quiet.size();
  result.seconds = median_of(quiet, &Sample::seconds);
  const auto consider = [&](double seconds, double rate, const std::string& name) {
    if (seconds <= result.bound_seconds) return;
    result.bound_seconds = seconds;
    result.bound = name;
    result.rate = rate;
  };
  const double f32 = median_of(quiet, &Sample::f32), read = median_of(quiet, &Sample::read);
  const double scale = median_of(quiet, &Sample::scale), cache = median_of(quiet, &Sample::cache);
  consider(test.flops / f32 * 1e-9, f32, "f32");
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

void print_rows(const Json& lines) {
  fmt::print("{:<10} {:<34} {:>7} {:>12} {:>9} {:>8}  {:<26} {:>7} {:>9}\n", "op", "shape", "threads", "us/call",
             "GFLOP/s", "GB/s", "bound", "% of it", "rejected");
  for (const Json& line : lines) {
    const auto number = [&](const char* key) { return line.at(key).get<double>(); };
    const auto bound = line.at("bound").get<std::string>();
    fmt::print("{:<10} {:<34} {:>7} {:>12.1f} {:>9.1f} {:>8.1f}  {:<26} {:>7.1f} {:>9}\n",
               line.at("op").get<std::string>(), line.at("shape").get<std::string>(), line.at("threads").get<int>(),
               1e6 * number("seconds"), number("gflop_per_s"), number("gb_per_s"),
               fmt::format("{}: {:.1f} {}", bound, number("bound_rate"), bound == "f32" ? "GFLOP/s" : "GB/s"),
               number("percent_of_bound"),
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
  cpu::BoundsProbe probe(stream, kProbeMemory, kProbeSeconds);
  std::vector<std::vector<Sample>> samples(cases.size());
  std::vector<size_t> slots(cases.size(), 0);
  for (const OpCase& test : cases) {
    for (size_t slot = 0; slot < test.ring && !stop(); ++slot) test.run(slot);  // memory is had, pages are touched
  }
  const auto wanted = static_cast<size_t>(rounds);
  for (int64_t attempt = 0; attempt < kMostAttempts * rounds && !stop(); ++attempt) {
    bool enough = true;
    for (size_t i = 0; i < cases.size(); ++i) {
      if (quiet_ones(samples[i]).size() >= wanted) continue;
      samples[i].push_back(take_sample(cases[i], probe, slots[i]));
      enough = false;
    }
    if (enough) break;
  }
  Json lines = Json::array();
  for (size_t i = 0; i < cases.size(); ++i) {
    if (!samples[i].empty()) lines.push_back(to_json(options, cases[i], summarise(cases[i], samples[i]), stream));
  }
  if (!json) print_rows(lines);
  return lines;
}

}  // namespace carousel::cli
