// SPDX-License-Identifier: Apache-2.0
// Finds out which kind of model a reference case is of.
#include "carousel/verify/reference_case.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/cost.h"
#include "carousel/model/families/family.h"
#include "carousel/ops/kernel.h"
#include "carousel/verify/adapter_case.h"
#include "carousel/verify/forecast_case.h"
#include "carousel/verify/language_case.h"
#include "carousel/verify/regressor_case.h"

namespace carousel::verify {
namespace {

// The reason why this build cannot run the model at all; nothing: it can.
std::optional<std::string> unknown_model(const std::string& folder) {
  const std::string path = model::resolve(folder).config;
  const Json config = model::read_config(path);
  if (!config.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", path, brief(config));
  if (!config.contains("model_type") || !config["model_type"].is_string()) return "config.json names no model_type";
  const std::string type = config["model_type"].get<std::string>();
  try {
    model::find_family(type, path);
  } catch (const Error&) {
    return fmt::format("this build has no model_type \"{}\"", type);
  }
  return std::nullopt;
}

/// Whether matrices change when they are loaded, or what is multiplied with them is rounded.
bool rounds_in(const std::string& folder, const Setup& setup) {
  if (!setup.weights.body && setup.stream.compute == Compute::kF32) return false;
  const std::string base = base_of(folder);
  const model::ModelFiles files = model::open_model_files(base.empty() ? folder : base);
  const DType own = model::measure_cost(files).dtype, held = model::measure_cost(files, setup.weights).dtype;
  const bool narrow = held == DType::kBF16 || kernel_traits(*setup.stream.memory).narrow_cells;
  return held != own || (setup.stream.compute == Compute::kBF16 && narrow);
}

}  // namespace

double Setup::tolerance(const model::ModelConfig& config) const {
  if (!rounds) return kTolerance;
  const auto routes = [](const model::Sublayer& sublayer) { return sublayer.block == "moe"; };
  return std::any_of(config.sublayers.begin(), config.sublayers.end(), routes) ? kRoutedTolerance : kRoundedTolerance;
}

bool is_input(const std::string& name) {
  return name == "ids" || name == "prompt" || name == "train.ids" || name == "muon.ids" || name == "valid.ids" ||
         name.starts_with("ids.");
}

std::vector<Comparison> compare_case(const std::string& folder, const Setup& given, const TokensDone& progress) {
  Setup setup = given;
  if (model::is_adapter(folder)) {
    setup.rounds = rounds_in(folder, setup);
    return compare_language_case(folder, setup, progress);
  }
  if (!unknown_model(folder)) setup.rounds = rounds_in(folder, setup);
  if (is_forecast_case(folder)) {
    if (setup.numerics.name != "native") fail(ErrorKind::kInput, "{}: a forecaster runs as native alone", folder);
    return compare_forecast_case(folder, setup);
  }
  if (const std::optional<std::string> reason = unknown_model(folder)) {
    std::vector<Comparison> skipped;
    const auto expected = formats::SafetensorsFile::open(folder + "/expected.safetensors");
    for (const formats::TensorEntry& tensor : expected.entries()) {
      if (!is_input(tensor.name)) skipped.push_back({tensor.name, Comparison::Status::kSkip, 0, 0, *reason});
    }
    return skipped;
  }
  return is_regressor_case(folder) ? compare_regressor_case(folder, setup)
                                   : compare_language_case(folder, setup, progress);
}

}  // namespace carousel::verify
