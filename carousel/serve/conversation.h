// SPDX-License-Identifier: Apache-2.0
// OpenAI's messages -> the tokens up to the answer.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/model/chat_turns.h"

namespace carousel::serve {

class Conversations {
 public:
  /// `chat_template`: "": the model's own, where it is known to write ChatML; "chatml": ChatML whatever the model has.
  Conversations(const std::string& path, const model::Model& model, const std::string& chat_template);

  /// The tokens that follow `seen` (of a kept state) and make the model answer the last message. Throws Error(kInput):
  /// not a list of messages, roles that do not take turns, a template that is not known.
  std::vector<int32_t> tokens(const Json& messages, std::span<const int32_t> seen) const;
  /// The tokens that follow an answer's question in the next turn of the chat: its text and the end of its turn. Throws
  /// Error(kInput).
  std::vector<int32_t> answer(const std::string& text) const;
  /// Text that ends an answer where the tokenizer has no token for it; empty: none is needed.
  std::string stop() const { return spelled_ ? "<|im_end|>" : ""; }

 private:
  struct Turns {
    std::optional<model::ChatTurns> form;
    std::string refusal;  // without a form
  };
  const Turns& turns(bool with_system) const { return with_system ? with_system_ : without_system_; }
  std::vector<int32_t> spelled(const Json& messages, std::span<const int32_t> seen) const;

  const model::Model& model_;
  bool spelled_ = false;  // ChatML in plain text: the tokenizer lacks its control tokens
  Turns with_system_, without_system_;
};

}  // namespace carousel::serve
