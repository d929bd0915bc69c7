// SPDX-License-Identifier: Apache-2.0
// carousel wiring: the circuit a config describes, counted and drawn.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "carousel/blocks/wiring.h"
#include "carousel/cli/command.h"
#include "carousel/cli/options.h"
#include "carousel/cli/output_path.h"
#include "carousel/cli/wiring_svg.h"
#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/model/config.h"

namespace carousel::cli {
namespace {

constexpr int64_t kMostDrawn = 200000;  // synapses: a picture of more has tens of megabytes and shows nothing

struct WiringOptions {
  std::string config, svg;
  int64_t layer = -1;
  int64_t inputs = 0;
};

/// The wiring of the first sublayer that has one, in layer `layer` if that is given.
blocks::Wiring of_model(const Json& config, const std::string& path, int64_t layer) {
  const model::ModelConfig parsed = model::parse_config(config, path);
  for (const model::Sublayer& sublayer : parsed.sublayers) {
    if (layer >= 0 && sublayer.layer != layer) continue;
    const auto wiring = sublayer.options.find("wiring");
    if (wiring != sublayer.options.end() && blocks::is_circuit(*wiring)) {
      return blocks::make_wiring(*wiring, parsed.hidden_size, path + ": \"wiring\"");
    }
    if (sublayer.block == "ncps_ltc") {
      const auto units = sublayer.options.find("units");
      const Json dense = {{"type", "FullyConnected"},
                          {"units", units != sublayer.options.end() ? *units : Json(parsed.hidden_size)}};
      return blocks::make_wiring(dense, parsed.hidden_size, path);
    }
  }
  fail(ErrorKind::kInput, "{}: no layer{} has a wiring", path, layer >= 0 ? fmt::format(" {}", layer) : "");
}

std::string config_path(const WiringOptions& options) {
  return is_folder(options.config) ? options.config + "/config.json" : options.config;
}

blocks::Wiring read_wiring(const WiringOptions& options) {
  const std::string path = config_path(options);
  const Json config = read_json_file(path);
  if (config.is_object() && config.contains("model_type")) return of_model(config, path, options.layer);
  int64_t inputs = options.inputs;
  if (inputs == 0 && config.is_object() && config.contains("input_dim")) {
    Fields fields(config, path);
    inputs = fields.integer("input_dim", 1, blocks::kMaxWiringEntries);
  }
  if (inputs == 0) fail(ErrorKind::kUsage, "--inputs: expected the number of sensory neurons of {}", path);
  return blocks::make_wiring(config, inputs, path);
}

int run_wiring(const WiringOptions& options) {
  if (!options.svg.empty()) check_output_path(options.svg, {config_path(options)});
  const blocks::Wiring wiring = read_wiring(options);
  fmt::print("{}\n", wiring_summary(wiring));
  if (options.svg.empty()) return 0;
  if (const int64_t count = wiring.synapse_count() + wiring.sensory_synapse_count(); count > kMostDrawn) {
    fail(ErrorKind::kInput, "{}: {} synapses, expected at most {} to draw", options.config, count, kMostDrawn);
  }
  if (const int64_t count = wiring.input_dim + wiring.units; count > kMostDrawn) {
    fail(ErrorKind::kInput, "{}: {} neurons, expected at most {} to draw", options.config, count, kMostDrawn);
  }
  write_text_file(options.svg, wiring_svg(wiring));
  return 0;
}

}  // namespace

std::function<int()> setup_wiring(CLI::App& app) {
  const auto options = std::make_shared<WiringOptions>();
  app.add_option("config", options->config,
                 "Model folder, config.json, or a JSON file with a wiring alone ({\"type\": \"AutoNCP\", ...})")
      ->required();
  app.add_option("--svg", options->svg, "File for the picture");
  add_integer(app, "--layer", options->layer, -1, model::kMaxLayers, "Layer of a stack; -1: the first with a wiring");
  add_integer(app, "--inputs", options->inputs, 0, blocks::kMaxWiringEntries,
              "Sensory neurons, where the file holds a wiring alone");
  return [options] { return run_wiring(*options); };
}

}  // namespace carousel::cli
