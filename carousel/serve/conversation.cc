// SPDX-License-Identifier: Apache-2.0
// Turns: as `carousel chat` takes them, or ChatML spelled out.
#include "carousel/serve/conversation.h"

#include <algorithm>

#include "carousel/core/error.h"

namespace carousel::serve {
namespace {

struct Message {
  std::string role, text;
};

/// A message's text: a string, or a list of parts that are text.
std::string text_of(const Json& content, size_t index) {
  if (content.is_string()) return content;
  std::string all;
  if (!content.is_array()) {
    fail(ErrorKind::kInput, "request: \"messages\" holds at {} content {}, expected text", index, brief(content));
  }
  for (const Json& part : content) {
    Fields fields(part, "request: \"messages\" content part");
    const std::string type = fields.string("type");
    if (type != "text") {
      fail(ErrorKind::kInput, "request: \"messages\" holds a part of type \"{}\", expected \"text\"", type);
    }
    all += fields.string("text");
  }
  return all;
}

std::vector<Message> read_messages(const Json& messages) {
  constexpr size_t kMost = 1 << 16;
  if (!messages.is_array() || messages.empty() || messages.size() > kMost) {
    fail(ErrorKind::kInput, "request: \"messages\" is {}, expected a list of 1 to {} messages", brief(messages), kMost);
  }
  std::vector<Message> out;
  for (const Json& message : messages) {
    Fields fields(message, "request: \"messages\" item");
    std::string role = fields.choice("role", {"system", "developer", "user", "assistant"}, {});
    if (role == "developer") role = "system";
    const Json* const content = fields.raw("content");
    const Json* const calls = fields.raw("tool_calls");
    if (calls != nullptr && !calls->empty()) {
      fail(ErrorKind::kInput, "request: \"messages\" holds tool_calls, expected none: this server knows no tools");
    }
    out.push_back({role, content == nullptr ? "" : text_of(*content, out.size())});
  }
  return out;
}

/// Throws unless roles take turns: an optional system message, then user and assistant, the last one the user's.
void check_order(const std::vector<Message>& messages, bool goes_on) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  if (first == 1 && goes_on) {
    fail(ErrorKind::kInput, "request: \"messages\" begins with a system message, expected none: the state has begun");
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const char* const expected = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role != expected) {
      fail(ErrorKind::kInput, "request: \"messages\" has the role \"{}\" at {}, expected \"{}\"", messages[i].role, i,
           expected);
    }
  }
  if (messages.back().role != "user") {
    fail(ErrorKind::kInput, "request: \"messages\" ends with the role \"{}\", expected \"user\"", messages.back().role);
  }
}

}  // namespace

Conversations::Conversations(const std::string& path, const model::Model& model, const std::string& chat_template)
    : model_(model) {
  if (!model.tokenizer) return;
  const bool has_tokens = text::ChatMl::find(model.text()).has_value();
  if (!chat_template.empty()) {
    spelled_ = !has_tokens;
    model::ChatTurns form{text::ChatMl::find(model.text()), model.text().encode(""), {}, "", {}};
    with_system_.form = without_system_.form = form;
    return;
  }
  for (const bool with_system : {false, true}) {
    Turns& turns = with_system ? with_system_ : without_system_;
    try {
      const model::ChatWords words{"a user's message",
                                   "the system message",
                                   "with a system message it is, ",
                                   "without a system message it is, ",
                                   "--chat-template chatml uses it all the same",
                                   "leave such a text out"};
      turns.form = model::find_turns(path, model, with_system, false, words);
      if (!turns.form->turns) {
        turns.form.reset();
        turns.refusal = "the tokenizer has no control tokens of a chat; start the server with --chat-template chatml";
      }
    } catch (const Error& error) {
      turns.refusal = error.what();
    }
  }
}

std::vector<int32_t> Conversations::tokens(const Json& list, std::span<const int32_t> seen) const {
  const std::vector<Message> messages = read_messages(list);
  check_order(messages, !seen.empty());
  if (spelled_) return spelled(list, seen);
  const bool has_system = messages[0].role == "system";
  const Turns& turns = this->turns(has_system);
  if (!turns.form) fail(ErrorKind::kInput, "request: \"messages\" cannot be used: {}", turns.refusal);
  if (has_system && messages[0].text.empty()) {  // a template may write another turn for it, or none
    fail(ErrorKind::kInput, "request: \"messages\"[0] is an empty system message, expected text, or no such message");
  }
  const std::string system = has_system ? messages[0].text : "";
  std::vector<int32_t> all(seen.begin(), seen.end());
  size_t checked = 0;
  for (size_t i = has_system ? 1 : 0; i < messages.size(); i += 2) {
    const std::vector<int32_t> question = turns.form->ask(all, system, messages[i].text, checked);
    checked = all.size();
    all.insert(all.end(), question.begin(), question.end());
    if (i + 1 == messages.size()) break;
    const std::vector<int32_t> answer = turns.form->answer(messages[i + 1].text);
    all.insert(all.end(), answer.begin(), answer.end());
  }
  return {all.begin() + static_cast<std::ptrdiff_t>(seen.size()), all.end()};
}

std::vector<int32_t> Conversations::answer(const std::string& text) const {
  if (spelled_) {
    std::vector<int32_t> out = model_.text().encode_inner(text);
    const std::vector<int32_t> end = model_.text().encode_inner("<|im_end|>\n");
    out.insert(out.end(), end.begin(), end.end());
    return out;
  }
  const Turns& turns = without_system_.form ? without_system_ : with_system_;
  return turns.form->answer(text);
}

/// ChatML as text. Texts are encoded apart from the marks, so that none becomes a special token.
std::vector<int32_t> Conversations::spelled(const Json& list, std::span<const int32_t> seen) const {
  const text::Tokenizer& tokenizer = model_.text();
  std::vector<int32_t> out = seen.empty() ? tokenizer.encode("") : std::vector<int32_t>();
  const auto add = [&](const std::string& text) {
    const std::vector<int32_t> more = tokenizer.encode_inner(text);
    out.insert(out.end(), more.begin(), more.end());
  };
  if (!seen.empty()) add("<|im_end|>\n");
  for (const Message& message : read_messages(list)) {
    add("<|im_start|>" + message.role + "\n");
    add(message.text);
    add("<|im_end|>\n");
  }
  add("<|im_start|>assistant\n");
  return out;
}

}  // namespace carousel::serve
