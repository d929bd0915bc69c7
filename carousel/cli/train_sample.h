// SPDX-License-Identifier: Apache-2.0
// Samples show what a model writes while it is trained.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/core/stream.h"
#include "carousel/model/load.h"

namespace carousel::cli {

/// The ids that continue_text() begins with. Throws Error(kInput) where there are none that the model takes.
std::vector<int32_t> sample_prompt(const model::Model& model, const std::string& prompt);

/// The likeliest tokens one after the other, `tokens` at most, after `prompt`; the text without the prompt. An empty
/// prompt begins as generate does. Throws Error(kInput) for a model without a tokenizer.
std::string continue_text(const model::Model& model, const Stream& stream, const std::string& prompt, int64_t tokens);

}  // namespace carousel::cli
