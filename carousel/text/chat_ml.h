// SPDX-License-Identifier: Apache-2.0
// ChatML: a conversation as turns of <|im_start|>role, newline, text, <|im_end|>, newline. The control tokens are put
// in as ids; text is never searched for them, so a turn says what its author wrote and cannot become another turn.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/tokenizer.h"

namespace carousel::text {

struct ChatTurn {
  std::string role, text;
};

class ChatMl {
 public:
  /// Absent when the tokenizer lacks one of the two control tokens.
  static std::optional<ChatMl> find(const Tokenizer& tokenizer);

  /// The tokens after `seen` that make the model answer `text`: the end of a turn that is open, the user's turn, and
  /// the head of the answer. Before the first turn they begin with `start`, and a system turn unless `system` is empty.
  /// Throws Error(kInput) when the tokenizer makes a control token of ordinary text.
  std::vector<int32_t> ask(std::span<const int32_t> seen, std::span<const int32_t> start, std::string_view system,
                           std::string_view text) const;

  /// The tokens of an answer to what ask() asked: its text and the end of the turn. Throws as ask() does.
  std::vector<int32_t> answer(std::string_view text) const;

  /// The turns that the tokens `seen` hold, the last of which may be open.
  std::vector<ChatTurn> turns_of(std::span<const int32_t> seen) const;

 private:
  ChatMl(Tokenizer tokenizer, int32_t turn_start, int32_t turn_end);
  void add_text(std::string_view text, std::vector<int32_t>& out) const;
  void add_turn(std::string_view role, std::string_view text, std::vector<int32_t>& out) const;

  Tokenizer tokenizer_;
  int32_t turn_start_;
  int32_t turn_end_;
};

}  // namespace carousel::text
