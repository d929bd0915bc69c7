// SPDX-License-Identifier: Apache-2.0
// A reference case: a model folder with expected.safetensors, which its public implementation computed
// (docs/formats.md). Every expected tensor is computed here in as many ways as the engine knows and compared.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/ops/numerics.h"
#include "carousel/verify/comparison.h"

namespace carousel::verify {

/// Is called with the tokens of a long text that are done, from 0 on; with done == total once, at the text's end.
using TokensDone = std::function<void(int64_t done, int64_t total)>;

/// Compares everything in the folder, run as `numerics` says. Throws Error(kInput, kIo) for a malformed case.
std::vector<Comparison> compare_case(const std::string& folder, const Stream& stream, const Numerics& numerics,
                                     const TokensDone& progress = {});

}  // namespace carousel::verify
