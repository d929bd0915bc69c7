// SPDX-License-Identifier: Apache-2.0
// Options of bench --serve, and its lines as a table and as JSON.
#include "carousel/cli/bench_serve.h"

#include "carousel/core/error.h"

#ifdef CAROUSEL_NO_SERVE

namespace carousel::cli {

void add_serve_options(CLI::App& app, BenchServeOptions& options) {
  app.add_flag("--serve", options.asked, "Measure a server of the model");
}

Json bench_serve(const BenchServeOptions&, model::Model&, const Stream&, int64_t, bool) {
  fail(ErrorKind::kInput, "--serve: this carousel was built without Boost, which the server needs");
}

}  // namespace carousel::cli

#else

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>

#include "carousel/cli/progress.h"
#include "carousel/cli/scratch.h"
#include "carousel/cli/signals.h"
#include "carousel/serve/measure.h"

namespace carousel::cli {
namespace {

/// So many streams as this process may have connections for, at both their ends.
int64_t allowed_streams(int64_t wanted) {
  constexpr int64_t kOthers = 256;  // descriptors for all else
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const auto most = static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, rlim_t{1} << 20));
  const int64_t allowed = std::clamp<int64_t>((most - kOthers) / 2, 1, wanted);
  if (allowed < wanted) {
    note(fmt::format("the limit of {} open files leaves {} streams open, expected {}", most, allowed, wanted));
  }
  return allowed;
}

Json to_json(const serve::Measured& line) {
  return {{"name", line.name},     {"work", line.work},           {"unit", line.unit},
          {"served", line.served}, {"beside", line.beside},       {"measured_beside", line.counterpart},
          {"value", line.value},   {"bound", line.bound},         {"bound_is", line.at_least ? "least" : "most"},
          {"holds", line.holds()}, {"rounds", line.served.size()}};
}

void print_head() {
  fmt::print("{:<12} {:<58} {:>12} {:>12} {:<9} {:>7} {:>9}\n", "line", "work", "served", "beside", "", "value",
             "bound");
}

void print_line(const serve::Measured& line) {
  fmt::print("{:<12} {:<58} {:>12.2f} {:>12.2f} {:<9} {:>7.3f} {:>9}{}\n", line.name, line.work, median(line.served),
             median(line.beside), line.unit, line.value,
             fmt::format("{} {:.2f}", line.at_least ? ">=" : "<=", line.bound), line.holds() ? "" : " missed");
  std::fflush(stdout);
}

}  // namespace

void add_serve_options(CLI::App& app, BenchServeOptions& options) {
  app.add_flag("--serve", options.asked, "Measure a server of the model on loopback, beside the model alone");
  app.add_option("--only", options.only, "--serve: lines to measure, by their names in its table (all)")
      ->delimiter(',')
      ->check(CLI::IsMember(serve::measured_names()));
}

Json bench_serve(const BenchServeOptions& options, model::Model& model, const Stream& stream, int64_t rounds,
                 bool json) {
  if (!model.tokenizer) {
    note("the model has no tokenizer: it is served as one of bytes, and samples no other tokens");
    model.tokenizer = text::Tokenizer::bytes();
  }
  const ScratchFolder scratch;
  serve::MeasureOptions measured;
  measured.rounds = rounds;
  measured.only = options.only;
  measured.scratch = scratch.path();
  measured.open_streams = allowed_streams(measured.open_streams);
  Json lines = Json::array();
  if (!json) print_head();
  const auto told = [&](const serve::Measured& line) {
    lines.push_back(to_json(line));
    if (!json) print_line(line);
  };
  serve::measure_serving(model, stream, measured, told, interrupted);
  return lines;
}

}  // namespace carousel::cli

#endif
