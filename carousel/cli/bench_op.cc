// SPDX-License-Identifier: Apache-2.0
// Options of bench --op, and its results as JSON and as a table.
#include "carousel/cli/bench_op.h"

#include <fmt/format.h>

#include "carousel/bench/byte_units.h"
#include "carousel/cli/options.h"
#include "carousel/cpu/isa.h"

namespace carousel::cli {

std::string bound_name(bench::Bound bound, size_t cached_bytes) {
  switch (bound) {
    case bench::Bound::kF32:
      return "f32";
    case bench::Bound::kBF16:
      return "bf16";
    case bench::Bound::kInt8:
      return "int8";
    case bench::Bound::kMemory:
      return "memory";
    case bench::Bound::kCache:
      break;
  }
  return fmt::format("cache {}", bench::in_binary_units(static_cast<double>(cached_bytes)));
}

const char* unit_of(bench::Bound bound) {
  if (bound == bench::Bound::kInt8) return "GOP/s";
  return bound == bench::Bound::kF32 || bound == bench::Bound::kBF16 ? "GFLOP/s" : "GB/s";
}

namespace {

constexpr int64_t kMaxSize = int64_t{1} << 26;

Json to_json(const std::string& op, const bench::OpCase& test, const bench::OpResult& result, const Stream& stream,
             const std::string& device) {
  Json line = {{"op", op},
               {"shape", test.shape},
               {"device", device},
               {"isa", cpu::isa_name(stream.isa)},
               {"threads", stream.pool->threads()},
               {"seconds", result.seconds},
               {"gflop_per_s", test.all_operations() / result.seconds * 1e-9},
               {"gb_per_s", (test.read_bytes + test.written_bytes + test.cache_bytes) / result.seconds * 1e-9},
               {"bound", bound_name(result.least.bound, test.cached_bytes)},
               {"bound_rate", result.least.rate},
               {"bound_unit", unit_of(result.least.bound)},
               {"percent_of_bound", 100 * result.least.seconds / result.seconds},
               {"samples", result.samples},
               {"rejected", result.rejected}};
  if (result.backward_seconds) {
    line["backward_seconds"] = *result.backward_seconds;
    line["backward_ratio"] = *result.backward_seconds / result.seconds;
  }
  return line;
}

}  // namespace

void print_above_mark() {
  fmt::print("> above the bound: the machine was slower while the bound was measured than during the test\n");
}

void print_op_lines(const Json& lines) {
  const bool backward = !lines.empty() && lines.front().contains("backward_seconds");
  fmt::print("{:<10} {:<34} {:>7} {:>12} {:>9} {:>8}  {:<26} {:>7} {:>9}{}\n", "op", "shape", "threads", "us/call",
             "GFLOP/s", "GB/s", "bound", "% of it", "rejected", backward ? "  us/backward  ratio" : "");
  bool above = false;
  for (const Json& line : lines) {
    const auto number = [&](const char* key) { return line.at(key).get<double>(); };
    const auto bound = line.at("bound").get<std::string>();
    const auto device = line.at("device").get<std::string>();
    const std::string where = device == "cpu" ? fmt::format("{}", line.at("threads").get<int>()) : device;
    fmt::print(
        "{:<10} {:<34} {:>7} {:>12.1f} {:>9.1f} {:>8.1f}  {:<26} {:>7} {:>9}{}\n", line.at("op").get<std::string>(),
        line.at("shape").get<std::string>(), where, 1e6 * number("seconds"), number("gflop_per_s"), number("gb_per_s"),
        fmt::format("{}: {:.1f} {}", bound, number("bound_rate"), line.at("bound_unit").get<std::string>()),
        fmt::format("{:.1f}{}", number("percent_of_bound"), number("percent_of_bound") > 100 ? " >" : ""),
        fmt::format("{}/{}", line.at("rejected").get<int64_t>(),
                    line.at("rejected").get<int64_t>() + line.at("samples").get<int64_t>()),
        backward ? fmt::format("  {:>11.1f} {:>6.2f}", 1e6 * number("backward_seconds"), number("backward_ratio"))
                 : "");
    above = above || number("percent_of_bound") > 100;
  }
  if (above) print_above_mark();
}

Json op_lines(const std::string& op, const std::vector<bench::OpCase>& cases,
              const std::vector<bench::OpResult>& results, const Stream& stream, const std::string& device) {
  Json lines = Json::array();
  for (size_t i = 0; i < cases.size(); ++i) {
    if (results[i].samples > 0) lines.push_back(to_json(op, cases[i], results[i], stream, device));
  }
  return lines;
}

void add_op_options(CLI::App& app, bench::OpOptions& options) {
  add_choice(app, "--op", options.op, bench::op_names(), "Measure one op instead of a model; -d and --weights apply");
  add_integers(app, "--rows", options.rows, 1, kMaxSize,
               "--op, --train: rows of each sequence (1,512; slstm, head and --train 512)")
      ->default_str("");
  add_integers(app, "--batch", options.batch, 1, 65535,
               "Sequences: of --op and --train, and of a model that decode in one forward");
  const auto add = [&](const char* name, int64_t& value, const char* help) {
    add_integer(app, name, value, 1, kMaxSize, help)->default_str("");
  };
  add("--heads", options.heads, "--op slstm, mlstm, attention: heads (4, 8, 32)");
  add("--kv-heads", options.kv_heads, "--op attention: heads of keys and values (a fourth of the heads)");
  add("--head-dim", options.head_dim,
      "--op slstm, mlstm, attention: width of a head's queries and keys (256, 256, 64); block_linear: of a block (4); "
      "gate_heads, head_norm: of a head (64, 512)");
  add("--value-dim", options.value_dim, "--op mlstm: width of a head's values (twice the keys')");
  add("--in", options.in, "Width of the input (linear 4096, moe 1024, cfc and ltc 16, else 2048)");
  add("--out", options.out,
      "--op linear: width of the result (4096); moe: hidden units of an expert (512); cfc, ltc: units (64, 32); "
      "embedding, head: tokens of the vocabulary (16384)");
  add_integers(app, "--sparsity", options.sparsity, 0, 100,
               "--op linear: percent of the weights that a random wiring masks");
  app.add_flag("--backward", options.backward, "--op: time the gradient beside the call, on the CPU");
  add("--taps", options.taps, "--op short_conv: taps (3)");
}

}  // namespace carousel::cli
