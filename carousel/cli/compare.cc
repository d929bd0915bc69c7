// SPDX-License-Identifier: Apache-2.0
// carousel compare: how far two ways of handling numbers drift apart in one model, sublayer by sublayer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/escapes.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/prompt.h"
#include "carousel/cli/signals.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"
#include "carousel/verify/drift.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxGreedy = 1 << 20;

struct CompareOptions {
  std::string model, a = "native", b, prompt, file;
  bool has_prompt = false;
  Escapes escapes;
  std::vector<int64_t> ids;
  int64_t greedy = 16;
  bool json = false;
  Machine machine, machine_b;  // of side a and side b

  bool two_devices() const { return machine.device != machine_b.device; }
  bool two_computes() const { return machine.compute != machine_b.compute; }
  std::string side_a() const { return side(a, machine); }
  std::string side_b() const { return side(b, machine_b); }

 private:
  std::string side(const std::string& profile, const Machine& where) const {
    return profile + (two_devices() ? " on " + where.device : "") + (two_computes() ? " in " + where.compute : "");
  }
};

/// "A,B" is A for side a and B for side b.
void split(std::string& of_a, std::string& of_b) {
  const size_t comma = of_a.find(',');
  of_b = comma == std::string::npos ? of_a : of_a.substr(comma + 1);
  of_a.resize(std::min(comma, of_a.size()));
}

void split_sides(CompareOptions& options) {
  Machine &a = options.machine, &b = options.machine_b;
  split(a.device, b.device);
  split(a.compute, b.compute);
  b.threads = a.threads;
  b.isa = a.isa;
  for (const std::string& compute : {a.compute, b.compute}) {
    if (compute == "f32" || compute == "bf16") continue;
    fail(ErrorKind::kUsage, "--compute: got \"{}\", expected f32, bf16, or two of them (A,B)", compute);
  }
  if (!options.b.empty()) return;
  if (!options.two_devices() && !options.two_computes())
    fail(ErrorKind::kUsage, "compare: got one side, expected --b, or two of --device or --compute (A,B)");
  options.b = options.a;
}

/// The states of the layer that begins with sublayer `index`; they are shown beside the layer's first sublayer.
std::vector<verify::StateDrift> states_of(const verify::DriftReport& report,
                                          const std::vector<model::Sublayer>& sublayers, size_t index) {
  const int64_t layer = sublayers[index].layer;
  std::vector<verify::StateDrift> found;
  if (index > 0 && sublayers[index - 1].layer == layer) return found;
  const std::string prefix = fmt::format("{}.", layer);
  for (const verify::StateDrift& state : report.states) {
    if (state.name.starts_with(prefix)) found.push_back(state);
  }
  return found;
}

Json drift_json(const verify::Drift& drift) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  return {{"relative_l2", number(drift.relative())}, {"max_abs", number(drift.largest)}};
}

Json to_json(const CompareOptions& options, const verify::Side& a, const verify::Side& b,
             const verify::DriftReport& report) {
  const std::vector<model::Sublayer>& sublayers = a.model.config.sublayers;
  Json lines = Json::array();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    Json line = drift_json(report.sublayers[i + 1]);
    line["name"] = sublayers[i].name;
    line["states"] = Json::object();
    for (const verify::StateDrift& state : states_of(report, sublayers, i))
      line["states"][state.name] = drift_json(state.drift);
    lines.push_back(std::move(line));
  }
  return {{"model", options.model},
          {"devices", {options.machine.device, options.machine_b.device}},
          {"compute", {options.machine.compute, options.machine_b.compute}},
          {"a", model::profile_json(*a.model.numerics)},
          {"b", model::profile_json(*b.model.numerics)},
          {"tokens", report.tokens},
          {"embeddings", drift_json(report.sublayers[0])},
          {"sublayers", lines},
          {"logits", drift_json(report.logits)},
          {"next_token", {{"agree", report.agree}, {"of", report.tokens}}},
          {"greedy", {{"agree", report.greedy_agree}, {"of", report.greedy}}}};
}

void print_table(const CompareOptions& options, const verify::Side& a, const verify::DriftReport& report) {
  const std::vector<model::Sublayer>& sublayers = a.model.config.sublayers;
  size_t width = 16;
  for (const model::Sublayer& sublayer : sublayers) width = std::max(width, sublayer.name.size());
  const auto line = [&](const std::string& name, const verify::Drift& drift) {
    fmt::print("  {:<{}}  {:<11.2e}  {:.2e}\n", name, width, drift.relative(), drift.largest);
  };
  fmt::print("{}: {} tokens, a {}, b {}\n", options.model, report.tokens, options.side_a(), options.side_b());
  fmt::print("  {:<{}}  relative L2  largest difference\n", "after", width);
  line("embeddings", report.sublayers[0]);
  for (size_t i = 0; i < sublayers.size(); ++i) {
    line(sublayers[i].name, report.sublayers[i + 1]);
    for (const verify::StateDrift& state : states_of(report, sublayers, i)) line("  state " + state.name, state.drift);
  }
  line("logits", report.logits);
  fmt::print("next token: the same at {} of {} positions\n", report.agree, report.tokens);
  if (report.greedy > 0) fmt::print("greedy: the first {} of {} tokens agree\n", report.greedy_agree, report.greedy);
}

// Throws for numbers that are not finite, which have no difference. The table shows the sublayer where they begin.
void check_finite(const model::ModelConfig& config, const verify::DriftReport& report) {
  const auto check = [](const verify::Drift& drift, const std::string& name) {
    if (std::isfinite(drift.largest)) return;
    fail(ErrorKind::kInput, "compare: {} holds numbers that are not finite, expected finite ones: one side overflows",
         name);
  };
  const std::vector<model::Sublayer>& sublayers = config.sublayers;
  check(report.sublayers[0], "the embeddings");
  for (size_t i = 0; i < sublayers.size(); ++i) check(report.sublayers[i + 1], "the output of " + sublayers[i].name);
  for (const verify::StateDrift& state : report.states) check(state.drift, "the state " + state.name);
  check(report.logits, "the logits");
}

std::vector<int32_t> read_tokens(const CompareOptions& options, const model::Model& model) {
  std::vector<int32_t> tokens;
  if (!options.ids.empty()) {
    tokens.assign(options.ids.begin(), options.ids.end());
    for (const int64_t id : options.ids) {
      if (id < model.config.vocab_size) continue;
      fail(ErrorKind::kInput, "--ids: got {}, expected 0 to {}", id, model.config.vocab_size - 1);
    }
    return tokens;
  }
  const Prompt prompt =
      options.has_prompt ? Prompt{options.escapes.read(options.prompt), "--prompt"} : read_prompt(options.file, true);
  check_prompt(prompt, model.text());
  tokens = model.text().encode(prompt.text, true, true);
  if (tokens.empty()) tokens.push_back(start_token(model));
  return tokens;
}

int run_compare(CompareOptions& options) {
  if ((options.has_prompt ? 1 : 0) + (options.file.empty() ? 0 : 1) + (options.ids.empty() ? 0 : 1) > 1) {
    fail(ErrorKind::kUsage, "compare: got more than one of -p, -f and --ids, expected at most one");
  }
  split_sides(options);
  const Stream stream_a = options.machine.stream(), stream_b = options.machine_b.stream();
  verify::Side a(options.model, model::find_profile(options.a), stream_a);
  verify::Side b(options.model, model::find_profile(options.b), stream_b);
  catch_interrupts();
  for (const std::string& warning : a.model.warnings) note("warning: " + warning);
  const std::vector<int32_t> tokens = read_tokens(options, a.model);
  const verify::DriftReport report =
      verify::measure_drift(a, b, tokens, options.greedy, interrupted, progress_bar("tokens"));
  if (options.json) {
    fmt::print("{}\n", to_json(options, a, b, report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_table(options, a, report);
  }
  if (interrupted()) note(fmt::format("interrupted: {} of {} tokens were decoded", report.greedy, options.greedy));
  check_finite(a.model.config, report);
  return interrupted() ? kInterruptedStatus : 0;
}

}  // namespace

std::function<int()> setup_compare(CLI::App& app) {
  const auto options = std::make_shared<CompareOptions>();
  app.add_option("model", options->model, "Model folder, a .gguf, or a .safetensors with its config.json beside it")
      ->required();
  add_profile(app, "--a", options->a, "Numeric profile to compare with");
  add_profile(app, "--b", options->b,
              "Numeric profile that is compared; with two devices or types that of --a is the default");
  CLI::Option* prompt =
      app.add_option("-p,--prompt", options->prompt, std::string("Text to run (default: stdin)") + kTakesEscapes);
  options->escapes.add_option(app, "-p");
  app.add_option("-f,--file", options->file, "File with the text to run; -: stdin");
  add_integers(app, "--ids", options->ids, 0, std::numeric_limits<int32_t>::max(),
               "Token ids to run instead of a text");
  add_integer(app, "-n,--n-predict,--predict", options->greedy, 0, kMaxGreedy, "Greedy tokens to go on with");
  app.add_flag("--json", options->json, "Results as JSON");
  options->machine.add_options(app);
  app.get_option("--device")->description("Where the model is and runs: cpu, cuda, cuda:N; A,B: side a on A, b on B");
  app.add_option("--compute", options->machine.compute,
                 "Products with bf16 weights: f32, or bf16, which rounds their input; A,B: side a in A, b in B")
      ->type_name("NAME")
      ->capture_default_str();
  return [options, prompt] {
    options->has_prompt = prompt->count() > 0;
    return run_compare(*options);
  };
}

}  // namespace carousel::cli
