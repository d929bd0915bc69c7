// SPDX-License-Identifier: Apache-2.0
// Carried states of several processes, brought to the one that writes a checkpoint.
#pragma once

#include <vector>

#include "carousel/core/state.h"
#include "carousel/train/processes.h"

namespace carousel::train {

/// Meeting: rank 0 gets the states of all processes' lanes, others an empty list. Of a lane one process at most has a
/// state that is not empty, or several have the same.
std::vector<State> collect_lanes(Processes& processes, const std::vector<State>& lanes, const StateLayout& layout);

}  // namespace carousel::train
