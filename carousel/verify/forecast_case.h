// SPDX-License-Identifier: Apache-2.0
// The reference cases of forecasters: contexts, their forecasts by quantile, the median, and the accelerated rollout.
#pragma once

#include <string>
#include <vector>

#include "carousel/verify/reference_case.h"

namespace carousel::verify {

/// Whether the folder's config describes a forecaster.
bool is_forecast_case(const std::string& folder);
/// Compares everything in the folder. Throws Error(kInput, kIo) for a malformed case.
std::vector<Comparison> compare_forecast_case(const std::string& folder, const Setup& setup);

}  // namespace carousel::verify
