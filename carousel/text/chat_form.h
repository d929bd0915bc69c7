// SPDX-License-Identifier: Apache-2.0
// Whether a model's chat template writes what ChatMl builds. The template is evaluated on conversations whose texts are
// unknown letters (jinja_render.h), and what it writes is compared with ChatML piece by piece: it is proven to be the
// same, or it is refused.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

/// What a conversation's turns must not hold, since the template treats such texts in a way of its own.
struct ChatCondition {
  std::string role;  // "system", "user", "assistant"
  std::string text;
  bool operator==(const ChatCondition&) const = default;
};

struct ChatForm {
  std::string difference;  // one line; empty: what the template writes is ChatML
  std::string start;       // what it writes before the first turn: nothing, or one token's text
  std::vector<ChatCondition> conditions;
};

/// `special_tokens`: values of "bos_token" and the like, those the template may name. `with_system`: the conversation
/// begins with a system turn. Throws nothing: a template that cannot be read is a difference too.
ChatForm compare_with_chat_ml(std::string_view chat_template, const std::map<std::string, std::string>& special_tokens,
                              bool with_system);

}  // namespace carousel::text
