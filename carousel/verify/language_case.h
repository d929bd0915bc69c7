// SPDX-License-Identifier: Apache-2.0
// The reference cases of language models: logits, states, greedy tokens, losses, likelihoods.
#pragma once

#include <string>
#include <vector>

#include "carousel/verify/reference_case.h"

namespace carousel::verify {

/// Compares everything in the folder of a model or an adapter. Throws Error(kInput, kIo) for a malformed case.
std::vector<Comparison> compare_language_case(const std::string& folder, const Setup& setup,
                                              const TokensDone& progress);

}  // namespace carousel::verify
