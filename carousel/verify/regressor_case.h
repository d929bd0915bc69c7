// SPDX-License-Identifier: Apache-2.0
// The reference cases of models from features to features: x, elapsed times, y, final states and wiring matrices.
#pragma once

#include <string>
#include <vector>

#include "carousel/verify/reference_case.h"

namespace carousel::verify {

/// Whether the folder's config describes such a model.
bool is_regressor_case(const std::string& folder);
/// Compares everything in the folder. Throws Error(kInput, kIo) for a malformed case.
std::vector<Comparison> compare_regressor_case(const std::string& folder, const Setup& setup);

}  // namespace carousel::verify
