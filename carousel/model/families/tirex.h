// SPDX-License-Identifier: Apache-2.0
// TiRex (arXiv:2505.23719): its settings, as a Lightning checkpoint holds them or flat in a config.json, and the names
// of its tensors.
#pragma once

#include <string>
#include <vector>

#include "carousel/model/families/family.h"

namespace carousel::model {

struct TirexConfig {
  ModelConfig stack;              // the body: sublayers, width, final norm
  int64_t context = 0;            // values a pass sees
  int64_t patch = 0;              // values of a token, and of its forecast
  int64_t input_ff_dim = 0;       // width of the hidden layers around the stack
  std::vector<double> quantiles;  // levels, increasing
  int64_t tokens() const { return context / patch; }
};

/// Throws Error(kInput) naming the key. Keys may lie under "hyper_parameters", "model_config" or flat.
TirexConfig read_tirex(const Json& config, const std::string& where);

Family tirex_family();

}  // namespace carousel::model
