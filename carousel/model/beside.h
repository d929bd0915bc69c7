// SPDX-License-Identifier: Apache-2.0
// A model's folder holds more than its config and weights; a model that is written anew takes these files along.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace carousel::model {

/// Tokenizer, chat template and generation config, as far as they are there: names and contents.
using BesideFiles = std::vector<std::pair<std::string, std::string>>;
/// Throws Error(kIo).
BesideFiles read_beside(const std::string& folder);

}  // namespace carousel::model
