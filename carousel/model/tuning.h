// SPDX-License-Identifier: Apache-2.0
// A Tuning says what a run trains of a model: all of it, all but what it freezes, or an adapter alone.
#pragma once

#include <string>
#include <vector>

#include "carousel/model/trained_params.h"

namespace carousel::model {

struct Tuning {
  std::vector<std::string> freeze;  // patterns of canonical or published names
  int64_t rank = 0;                 // of a fresh adapter, or one that `adapter` must have; 0: none
  double alpha = 0;
  std::vector<std::string> targets;  // of the fresh adapter; see find_targets
  std::string base;                  // the base model, as the adapter's config is to name it
  std::string adapter;               // the folder of an adapter to go on with; empty: none
};

/// Throws Error(kInput) where a pattern names no parameter, nothing is left to train, or the adapter does not fit.
/// `where` names the model. The draws of a fresh adapter depend on `seed` and the names alone.
TrainedChoice choose_trained(const ModelConfig& config, const std::vector<ParamRecord>& records, const Tuning& tuning,
                             uint64_t seed, const std::string& where);

}  // namespace carousel::model
