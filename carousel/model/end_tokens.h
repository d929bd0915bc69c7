// SPDX-License-Identifier: Apache-2.0
// Which tokens end a text: the ids that a model's files state, and what its tokenizer says of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/model/config.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// The end ids of the config, then those of generation_config.json in `folder`, each once. An empty `folder` is not
/// looked into. Ids may lie outside the vocabulary. Throws Error(kIo, kInput).
std::vector<int64_t> stated_end_ids(const ModelConfig& config, const std::string& folder);

/// The stated ids, if the tokenizer agrees that they are special: xLSTM-7B's config names an ordinary word. Tokens that
/// end texts by their spelling are added, as chat models stop at several. Ids that are not taken become warnings of the
/// model. `from_folder` says whether `folder` belongs to the model, as it does not for a GGUF file.
std::vector<int32_t> find_end_tokens(Model& model, const std::string& folder, bool from_folder);

}  // namespace carousel::model
