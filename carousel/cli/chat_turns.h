// SPDX-License-Identifier: Apache-2.0
// How the user's text in a chat becomes tokens: turns in ChatML where the model's chat template is proven to write
// them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/load.h"
#include "carousel/text/chat_form.h"
#include "carousel/text/chat_ml.h"

namespace carousel::cli {

struct ChatTurns {
  std::optional<text::ChatMl> turns;            // absent: texts are continued without turns
  std::vector<int32_t> start;                   // tokens before the first turn
  std::vector<text::ChatCondition> conditions;  // texts that turns must not hold
  std::string refusal;                          // why no conversation can begin; one from a file may go on

  /// The tokens after `seen`, up to the answer. Throws Error(kInput) where the template would write other ones.
  std::vector<int32_t> ask(std::span<const int32_t> seen, const std::string& system, const std::string& text) const;
};

/// ChatML where the tokenizer has its control tokens and the template of the model at `path`, if there is one, writes
/// ChatML only. `goes_on`: the first conversation is from a file. Throws Error(kInput) that names the difference.
ChatTurns find_turns(const std::string& path, const model::Model& model, bool with_system, bool goes_on);

}  // namespace carousel::cli
