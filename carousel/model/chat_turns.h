// SPDX-License-Identifier: Apache-2.0
// How the texts of a conversation become tokens: turns in ChatML where the model's chat template is proven to write
// them. A chat and training on conversations share this code.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/load.h"
#include "carousel/text/chat_form.h"
#include "carousel/text/chat_ml.h"

namespace carousel::model {

/// What messages call the texts of a conversation, and what they advise. A sentence of advice ends a message, or goes
/// on with ", " before the next one.
struct ChatWords {
  std::string user = "a user's message";                            // the text that is asked
  std::string system = "the system message";                        // the text before the first turn
  std::string with_system = "with a system message it is, ";        // where a system turn makes the template ChatML
  std::string without_system = "without a system message it is, ";  // where no system turn does
  std::string without_turns = "text without turns can be used";     // where there cannot be turns
  std::string without_text = "leave such a text out";               // where one text is the obstacle
};

struct ChatTurns {
  std::optional<text::ChatMl> turns;            // absent: texts are continued without turns
  std::vector<int32_t> start;                   // tokens before the first turn
  std::vector<text::ChatCondition> conditions;  // texts that turns must not hold
  std::string refusal;                          // why no conversation can begin; one from a file may go on
  ChatWords words;                              // the wording of messages

  /// The tokens after `seen`, up to the answer. Throws Error(kInput) where the template would write other ones. The
  /// first `checked` tokens of `seen` are known to be its own.
  std::vector<int32_t> ask(std::span<const int32_t> seen, const std::string& system, const std::string& text,
                           size_t checked = 0) const;
  /// The tokens that answer what ask() asked: the text and the end of its turn.
  std::vector<int32_t> answer(const std::string& text) const { return turns->answer(text); }
};

/// ChatML where the tokenizer has its control tokens and the template of the model at `path`, if there is one, writes
/// ChatML only. `goes_on`: the first conversation is from a file. Throws Error(kInput) that names the difference.
ChatTurns find_turns(const std::string& path, const Model& model, bool with_system, bool goes_on,
                     const ChatWords& words = {});

}  // namespace carousel::model
