// SPDX-License-Identifier: Apache-2.0
// A reference case: a model folder with expected.safetensors, which its public implementation computed
// (docs/formats.md). Every expected tensor is computed here in as many ways as the engine knows and compared.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/model/params.h"
#include "carousel/ops/numerics.h"
#include "carousel/verify/comparison.h"

namespace carousel::verify {

/// Is called with the tokens of a long text that are done, from 0 on; with done == total once, at the text's end.
using TokensDone = std::function<void(int64_t done, int64_t total)>;

/// How a case is run.
struct Setup {
  const Stream& stream;
  const Numerics& numerics;
  model::WeightTypes weights = {};  // the types of matrices that do not keep the file's own

  bool rounds = false;  // whether they, or what is multiplied with them, are rounded; compare_case sees it
  /// How far what this model computes may be off, in relative L2.
  double tolerance(const model::ModelConfig& config) const;
};

/// Compares everything in the folder. Throws Error(kInput, kIo) for a malformed case.
std::vector<Comparison> compare_case(const std::string& folder, const Setup& setup, const TokensDone& progress = {});

/// Whether a case's tensor is an input, from which others are computed.
bool is_input(const std::string& name);

}  // namespace carousel::verify
