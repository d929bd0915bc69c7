// SPDX-License-Identifier: Apache-2.0
// Whether a model's chat template writes the text that ChatMl builds. The template is evaluated on conversations whose
// texts are unknown letters (jinja_render.h), and the result is compared with ChatML piece by piece: either they are
// proven to be the same, or the template is refused.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

/// A text that a conversation's turns must not hold, since the template treats it in a way of its own.
struct ChatCondition {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  bool operator==(const ChatCondition&) const = default;
};

struct ChatForm {
  std::string difference;  // one line; empty: the template writes ChatML
  std::string start;       // the text it writes before the first turn: nothing, or one token's text
  std::vector<ChatCondition> conditions;
};

/// `special_tokens`: the values of "bos_token" and other names that the template may use. `with_system`: the
/// conversation begins with a system turn. Throws nothing: a template that cannot be read is a difference too.
ChatForm compare_with_chat_ml(std::string_view chat_template, const std::map<std::string, std::string>& special_tokens,
                              bool with_system);

}  // namespace carousel::text
