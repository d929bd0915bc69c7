// SPDX-License-Identifier: Apache-2.0
// carousel plot: the loss curves of runs of `carousel train`, from their logs, as a picture.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/output_path.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/train/loss_plot.h"
#include "carousel/train/run_log.h"

namespace carousel::cli {
namespace {

struct PlotOptions {
  std::vector<std::string> runs;
  std::string out = "-";
};

std::string without_slashes(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

int run_plot(const PlotOptions& options) {
  std::vector<std::string> logs;
  for (const std::string& run : options.runs) logs.push_back(without_slashes(run) + "/" + train::kRunLines);
  if (options.out != "-") check_output_path(options.out, logs);
  std::vector<train::RunCurve> runs;
  for (const std::string& run : options.runs) {
    const std::string folder = without_slashes(run);
    runs.push_back({folder, train::read_log(folder)});
  }
  const std::string svg = train::plot_losses(runs);
  if (options.out != "-") {
    write_text_file(options.out, svg);
    return 0;
  }
  std::fwrite(svg.data(), 1, svg.size(), stdout);
  return 0;
}

}  // namespace

std::function<int()> setup_plot(CLI::App& app) {
  const auto options = std::make_shared<PlotOptions>();
  app.add_option("runs", options->runs, "Folders that `carousel train --out` wrote")->required();
  app.add_option("-o,--out", options->out, "File for the picture (SVG); -: standard output")->capture_default_str();
  return [options] { return run_plot(*options); };
}

}  // namespace carousel::cli
