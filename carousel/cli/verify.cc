// SPDX-License-Identifier: Apache-2.0
// carousel verify: does this build, on this machine, compute what a public implementation does? One line per tensor of
// a reference case; verify/reference_case compares.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/options.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/model/profile.h"
#include "carousel/verify/reference_case.h"

namespace carousel::cli {
namespace {

using Status = verify::Comparison::Status;

// Exit statuses; the worst of all cases counts.
constexpr int kAgrees = 0;
constexpr int kDiffers = 1;
constexpr int kMalformed = 2;

struct VerifyOptions {
  std::vector<std::string> cases;
  std::string profile = "native";
  bool json = false;
  bool strict = false;
  WeightOptions weights;
  Machine machine;
};

const char* status_name(Status status) {
  return status == Status::kOk ? "ok" : status == Status::kFail ? "FAIL" : "skip";
}

// JSON has no NaN: null says that the number is not finite.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json to_json(const std::string& folder, const std::vector<verify::Comparison>& comparisons, int status) {
  Json tensors = Json::array();
  for (const verify::Comparison& comparison : comparisons) {
    Json line = {{"name", comparison.name}, {"status", status_name(comparison.status)}};
    if (comparison.status != Status::kSkip) {
      line["relative_l2"] = number(comparison.relative);
      line["max_abs"] = number(comparison.largest);
    }
    if (!comparison.note.empty()) line["note"] = comparison.note;
    tensors.push_back(line);
  }
  return {{"case", folder}, {"status", status}, {"tensors", tensors}};
}

void print_lines(const std::string& folder, const std::vector<verify::Comparison>& comparisons) {
  size_t width = 12;
  for (const verify::Comparison& comparison : comparisons) width = std::max(width, comparison.name.size());
  fmt::print("{}\n", folder);
  size_t counts[3] = {0, 0, 0};
  for (const verify::Comparison& comparison : comparisons) {
    ++counts[static_cast<size_t>(comparison.status)];
    std::string numbers(20, ' ');
    if (comparison.status != Status::kSkip)
      numbers = fmt::format("{:.2e}  {:.2e}  ", comparison.relative, comparison.largest);
    fmt::print("  {:<{}}  {:<20}{}{}{}\n", comparison.name, width, numbers, status_name(comparison.status),
               comparison.note.empty() ? "" : "  ", comparison.note);
  }
  fmt::print("  {} ok, {} FAIL, {} skip\n", counts[0], counts[1], counts[2]);
}

int judge(const std::vector<verify::Comparison>& comparisons, bool strict) {
  const auto count = [&](Status status) {
    return std::count_if(comparisons.begin(), comparisons.end(),
                         [&](const verify::Comparison& comparison) { return comparison.status == status; });
  };
  const bool skipped = strict && count(Status::kSkip) > 0;
  return count(Status::kFail) > 0 || count(Status::kOk) == 0 || skipped ? kDiffers : kAgrees;
}

int run_verify(VerifyOptions& options) {
  const Numerics numerics = model::find_profile(options.profile);
  const Stream stream = options.machine.stream();
  const verify::Setup setup = {stream, numerics, options.weights.types()};
  int worst = kAgrees;
  Json results = Json::array();
  for (const std::string& folder : options.cases) {
    int status = kMalformed;
    try {
      const std::vector<verify::Comparison> comparisons = verify::compare_case(folder, setup, progress_bar("tokens"));
      status = judge(comparisons, options.strict);
      if (options.json)
        results.push_back(to_json(folder, comparisons, status));
      else
        print_lines(folder, comparisons);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kLost) throw;
      note(fmt::format("carousel: error: {}: not a case that can be compared: {}", folder, error.what()));
      if (options.json) results.push_back({{"case", folder}, {"status", status}, {"error", error.what()}});
    }
    std::fflush(stdout);
    worst = std::max(worst, status);
  }
  if (options.json) fmt::print("{}\n", results.dump(2, ' ', false, Json::error_handler_t::replace));
  return worst;
}

}  // namespace

std::function<int()> setup_verify(CLI::App& app) {
  const auto options = std::make_shared<VerifyOptions>();
  app.add_option("case", options->cases,
                 "Folders with config.json, weights and expected.safetensors. Exit status: 0 all that was compared "
                 "agrees, 1 something differs or nothing could be compared, 2 a case is malformed")
      ->required();
  app.add_flag("--json", options->json, "Results as JSON");
  app.add_flag("--strict", options->strict, "Also fail where a tensor had to be skipped");
  add_profile(app, "--profile", options->profile, "How numbers are handled");
  add_choice(app, "--weights", options->weights.weights, {"auto", "f32", "f16", "bf16"},
             "Type of the weights; auto: the file's. Rounded ones, and bf16 products, are held to a wider bound");
  options->machine.add_options(app);
  add_choice(app, "--compute", options->machine.compute, {"f32", "bf16"},
             "Products with bf16 weights; bf16 rounds their input, and on a GPU what attention and chunks multiply");
  return [options] { return run_verify(*options); };
}

}  // namespace carousel::cli
