// SPDX-License-Identifier: Apache-2.0
// carousel compare: how far two ways of handling numbers drift apart in one model, sublayer by sublayer.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/escapes.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/prompt.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/load.h"
#include "carousel/model/profile.h"
#include "carousel/model/runner.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMaxGreedy = 1 << 20;
constexpr int64_t kLogitRows = 64;  // of both sides held at once

struct CompareOptions {
  std::string model, a = "native", b, prompt, file;
  bool has_prompt = false;
  Escapes escapes;
  std::vector<int64_t> ids;
  int64_t greedy = 16;
  bool json = false;
  Machine machine;
};

/// Sums over everything seen of one quantity.
struct Drift {
  double difference = 0, size = 0, largest = 0;

  void add(const float* a, const float* b, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const double d = static_cast<double>(b[i]) - static_cast<double>(a[i]);
      difference += d * d;
      size += static_cast<double>(a[i]) * static_cast<double>(a[i]);
      if (!(std::abs(d) <= largest)) largest = std::abs(d);
    }
  }
  /// ||b - a|| / ||a||.
  double relative() const { return difference == 0 ? 0 : std::sqrt(difference) / std::sqrt(size); }
};

/// Keeps what passes between the sublayers of one forward.
class Residuals : public Observer {
 public:
  void residual(size_t count, const Tensor& x) override {
    if (rows_.size() <= count) rows_.resize(count + 1);
    rows_[count].assign(x.f32(), x.f32() + x.count());
  }
  const std::vector<std::vector<float>>& rows() const { return rows_; }

 private:
  std::vector<std::vector<float>> rows_;
};

/// The model under one profile, and one sequence.
struct Side {
  Side(const CompareOptions& options, const std::string& profile, const Stream& stream)
      : model(model::load(options.model, stream, model::ModelKind::kLanguage, model::find_profile(profile))),
        runner(*model.lm, stream, *model.numerics) {
    runner.observe(&residuals);
  }
  Tensor forward(std::span<const int32_t> tokens) {
    State* const states[] = {&state};
    const int64_t lengths[] = {static_cast<int64_t>(tokens.size())};
    return runner.forward(tokens, states, lengths);
  }

  model::Model model;
  Residuals residuals;
  model::Runner runner;
  State state;
  std::vector<float> last;  // [V] logits after the last token
};

int32_t most_likely(const float* logits, int64_t vocab) {
  return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
}

struct StateDrift {
  std::string name;
  Drift drift;
};

/// What was found.
struct Report {
  std::vector<Drift> sublayers;  // after 0, 1, ... sublayers
  std::vector<StateDrift> states;
  Drift logits;
  int64_t tokens = 0, agree = 0;  // positions, and those whose likeliest token is the same
  int64_t greedy = 0, greedy_agree = 0;
};

class Comparing {
 public:
  Comparing(const CompareOptions& options, const Stream& stream)
      : options_(options), a_(options, options.a, stream), b_(options, options.b, stream) {}

  Report run(const std::vector<int32_t>& tokens);
  const model::Model& model() const { return a_.model; }
  const Numerics& numerics_a() const { return *a_.model.numerics; }
  const Numerics& numerics_b() const { return *b_.model.numerics; }

 private:
  void slab(std::span<const int32_t> tokens);
  void compare_logits(const Tensor& hidden_a, const Tensor& hidden_b);
  void compare_states();
  void compare_greedy();

  const CompareOptions& options_;
  Side a_, b_;
  Report report_;
};

void Comparing::slab(std::span<const int32_t> tokens) {
  const Tensor hidden_a = a_.forward(tokens), hidden_b = b_.forward(tokens);
  const auto& rows_a = a_.residuals.rows();
  const auto& rows_b = b_.residuals.rows();
  report_.sublayers.resize(rows_a.size());
  for (size_t i = 0; i < rows_a.size(); ++i) {
    report_.sublayers[i].add(rows_a[i].data(), rows_b[i].data(), static_cast<int64_t>(rows_a[i].size()));
  }
  compare_logits(hidden_a, hidden_b);
}

void Comparing::compare_logits(const Tensor& hidden_a, const Tensor& hidden_b) {
  const int64_t vocab = a_.model.lm->vocab_size(), rows = hidden_a.dim(0);
  for (int64_t begin = 0; begin < rows; begin += kLogitRows) {
    const int64_t end = std::min(rows, begin + kLogitRows);
    const Tensor a = a_.runner.logits(hidden_a.rows(begin, end)), b = b_.runner.logits(hidden_b.rows(begin, end));
    report_.logits.add(a.f32(), b.f32(), a.count());
    for (int64_t n = 0; n < end - begin; ++n) {
      report_.agree += most_likely(a.f32() + n * vocab, vocab) == most_likely(b.f32() + n * vocab, vocab) ? 1 : 0;
    }
    const int64_t last = (end - begin - 1) * vocab;
    a_.last.assign(a.f32() + last, a.f32() + last + vocab);
    b_.last.assign(b.f32() + last, b.f32() + last + vocab);
  }
  report_.tokens += rows;
}

void Comparing::compare_states() {
  const NamedTensors a = a_.state.tensors(a_.model.state_layout()), b = b_.state.tensors(b_.model.state_layout());
  for (size_t i = 0; i < a.size(); ++i) {
    report_.states.push_back({a[i].name, {}});
    report_.states.back().drift.add(a[i].tensor.f32(), b[i].tensor.f32(), a[i].tensor.count());
  }
}

// Each side goes on with its own likeliest tokens.
void Comparing::compare_greedy() {
  bool same = true;
  const int64_t vocab = a_.model.lm->vocab_size();
  for (; report_.greedy < options_.greedy && !interrupted(); ++report_.greedy) {
    const int32_t token_a = most_likely(a_.last.data(), vocab), token_b = most_likely(b_.last.data(), vocab);
    same = same && token_a == token_b;
    if (same) ++report_.greedy_agree;
    if (!same) continue;  // from here on the two read different texts
    const Tensor logits_a = a_.runner.logits(a_.forward({&token_a, 1}));
    const Tensor logits_b = b_.runner.logits(b_.forward({&token_b, 1}));
    a_.last.assign(logits_a.f32(), logits_a.f32() + vocab);
    b_.last.assign(logits_b.f32(), logits_b.f32() + vocab);
  }
}

Report Comparing::run(const std::vector<int32_t>& tokens) {
  const auto count = static_cast<int64_t>(tokens.size());
  {
    Progress bar("tokens", count);
    for (int64_t begin = 0; begin < count && !interrupted(); begin += model::kPrefillRows) {
      const int64_t rows = std::min(model::kPrefillRows, count - begin);
      slab(std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)));
      bar.update(begin + rows);
    }
  }
  if (interrupted()) fail(ErrorKind::kCancelled, "compare: interrupted");
  compare_states();
  compare_greedy();
  return report_;
}

/// States of the layer that begins with sublayer `index`: those a layer's first sublayer is named with.
std::vector<StateDrift> states_of(const Report& report, const std::vector<model::Sublayer>& sublayers, size_t index) {
  const int64_t layer = sublayers[index].layer;
  std::vector<StateDrift> found;
  if (index > 0 && sublayers[index - 1].layer == layer) return found;
  const std::string prefix = fmt::format("{}.", layer);
  for (const StateDrift& state : report.states) {
    if (state.name.starts_with(prefix)) found.push_back(state);
  }
  return found;
}

Json drift_json(const Drift& drift) {
  const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
  return {{"relative_l2", number(drift.relative())}, {"max_abs", number(drift.largest)}};
}

Json to_json(const CompareOptions& options, const Comparing& comparing, const Report& report) {
  const std::vector<model::Sublayer>& sublayers = comparing.model().config.sublayers;
  Json lines = Json::array();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    Json line = drift_json(report.sublayers[i + 1]);
    line["name"] = sublayers[i].name;
    line["states"] = Json::object();
    for (const StateDrift& state : states_of(report, sublayers, i))
      line["states"][state.name] = drift_json(state.drift);
    lines.push_back(std::move(line));
  }
  return {{"model", options.model},
          {"a", model::profile_json(comparing.numerics_a())},
          {"b", model::profile_json(comparing.numerics_b())},
          {"tokens", report.tokens},
          {"embeddings", drift_json(report.sublayers[0])},
          {"sublayers", lines},
          {"logits", drift_json(report.logits)},
          {"next_token", {{"agree", report.agree}, {"of", report.tokens}}},
          {"greedy", {{"agree", report.greedy_agree}, {"of", report.greedy}}}};
}

void print_table(const CompareOptions& options, const Comparing& comparing, const Report& report) {
  const std::vector<model::Sublayer>& sublayers = comparing.model().config.sublayers;
  size_t width = 16;
  for (const model::Sublayer& sublayer : sublayers) width = std::max(width, sublayer.name.size());
  const auto line = [&](const std::string& name, const Drift& drift) {
    fmt::print("  {:<{}}  {:<11.2e}  {:.2e}\n", name, width, drift.relative(), drift.largest);
  };
  fmt::print("{}: {} tokens, a {}, b {}\n", options.model, report.tokens, comparing.numerics_a().name,
             comparing.numerics_b().name);
  fmt::print("  {:<{}}  relative L2  largest difference\n", "after", width);
  line("embeddings", report.sublayers[0]);
  for (size_t i = 0; i < sublayers.size(); ++i) {
    line(sublayers[i].name, report.sublayers[i + 1]);
    for (const StateDrift& state : states_of(report, sublayers, i)) line("  state " + state.name, state.drift);
  }
  line("logits", report.logits);
  fmt::print("next token: the same at {} of {} positions\n", report.agree, report.tokens);
  if (report.greedy > 0) fmt::print("greedy: the first {} of {} tokens agree\n", report.greedy_agree, report.greedy);
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
  const Stream stream = options.machine.stream();
  catch_interrupts();
  Comparing comparing(options, stream);
  for (const std::string& warning : comparing.model().warnings) note("warning: " + warning);
  const Report report = comparing.run(read_tokens(options, comparing.model()));
  if (options.json) {
    fmt::print("{}\n", to_json(options, comparing, report).dump(2, ' ', false, Json::error_handler_t::replace));
  } else {
    print_table(options, comparing, report);
  }
  return 0;
}

}  // namespace

std::function<int()> setup_compare(CLI::App& app) {
  const auto options = std::make_shared<CompareOptions>();
  app.add_option("model", options->model, "Model folder, a .gguf, or a .safetensors with its config.json beside it")
      ->required();
  add_profile(app, "--a", options->a, "Numeric profile to compare with");
  add_profile(app, "--b", options->b, "Numeric profile that is compared")->required();
  CLI::Option* prompt =
      app.add_option("-p,--prompt", options->prompt, std::string("Text to run (default: stdin)") + kTakesEscapes);
  options->escapes.add_option(app, "-p");
  app.add_option("-f,--file", options->file, "File with the text to run; -: stdin");
  add_integers(app, "--ids", options->ids, 0, std::numeric_limits<int32_t>::max(),
               "Token ids to run instead of a text");
  add_integer(app, "-n,--n-predict,--predict", options->greedy, 0, kMaxGreedy, "Greedy tokens to go on with");
  app.add_flag("--json", options->json, "Results as JSON");
  options->machine.add_options(app);
  return [options, prompt] {
    options->has_prompt = prompt->count() > 0;
    return run_compare(*options);
  };
}

}  // namespace carousel::cli
