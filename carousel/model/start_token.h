// SPDX-License-Identifier: Apache-2.0
// The token that a text starts from where nothing is before it: generation without a prompt begins with it, and so do
// the documents that a model is trained on.
#pragma once

#include <cstdint>
#include <optional>

#include "carousel/model/load.h"

namespace carousel::model {

/// The model's BOS, else the token between texts; nothing where the tokenizer has neither. Throws Error(kInput) for a
/// model without a tokenizer.
std::optional<int32_t> start_token(const Model& model);

}  // namespace carousel::model
