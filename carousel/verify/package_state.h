// SPDX-License-Identifier: Apache-2.0
// The xlstm package's names for the states of a block, in reference cases made with it.
#pragma once

#include <string>
#include <vector>

namespace carousel::verify {

/// "state.block_3.mlstm_state.1" -> {"3.n"}: the entries of our state layout that the tensor holds one after the other,
/// each for all sequences. Empty for a name of another kind.
std::vector<std::string> package_state(const std::string& name);

}  // namespace carousel::verify
