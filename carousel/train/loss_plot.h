// SPDX-License-Identifier: Apache-2.0
// Loss curves of runs as a picture: SVG, no fonts but the viewer's own, the same bytes for the same logs.
#pragma once

#include <string>
#include <vector>

#include "carousel/train/run_log.h"

namespace carousel::train {

constexpr const char* kLoss = "loss";             // measures that are drawn: of training, as a line over pale values,
constexpr const char* kValidLoss = "valid_loss";  // and of validation, as dots

struct RunCurve {
  std::string name;
  std::vector<LogLine> lines;
};

constexpr size_t kMostCurves = 12;
/// One panel with all runs. Throws Error(kInput) where no run has a loss.
std::string plot_losses(const std::vector<RunCurve>& runs);

}  // namespace carousel::train
