// SPDX-License-Identifier: Apache-2.0
// Decides whether a conversation has turns, from the template and the tokenizer.
#include "carousel/model/chat_turns.h"

#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/chat_template.h"
#include "carousel/model/start_token.h"

namespace carousel::model {
namespace {

using Tokens = std::map<std::string, std::string>;

std::string refusal_of(const std::string& path, const text::ChatForm& form, const std::string& other_form,
                       const ChatWords& words) {
  return fmt::format("{}: its chat template is not plain ChatML: {}; {}{}", path, form.difference, other_form,
                     words.without_turns);
}

// The token that the template writes before the first turn.
std::vector<int32_t> start_of(const std::string& path, const Model& model, const std::string& start,
                              const ChatWords& words) {
  if (start.empty()) return {};
  const std::optional<int32_t> id = model.text().id_of(start);
  if (id && model.text().is_special(*id)) return {*id};
  fail(ErrorKind::kInput,
       "{}: its chat template writes \"{}\" before the first turn, which is no special token of the tokenizer; {}",
       path, start, words.without_turns);
}

Tokens special_tokens(const ModelPath& place, const Model& model, const std::string& chat_template) {
  Tokens tokens = read_special_tokens(place, model.config.source, model.text());
  const bool names_start = chat_template.find("bos_token") != std::string::npos;
  if (names_start && !tokens.contains("bos_token")) {
    const std::optional<int32_t> start = start_token(model);
    if (!start) {
      fail(ErrorKind::kInput,
           "{}: its chat template names \"bos_token\", and the tokenizer has no token a text starts "
           "with",
           place.folder);
    }
    tokens["bos_token"] = model.text().token_text(*start);
  }
  return tokens;
}

void check(const text::ChatCondition& condition, const text::ChatTurn& turn, const std::string& whose,
           const ChatWords& words) {
  if (turn.role != condition.role || turn.text.find(condition.text) == std::string::npos) return;
  fail(ErrorKind::kInput,
       "{} holds \"{}\": the model's chat template writes such a text in another way than plain ChatML, expected none; "
       "{}",
       whose, condition.text, words.without_text);
}

}  // namespace

ChatTurns find_turns(const std::string& path, const Model& model, bool with_system, bool goes_on,
                     const ChatWords& words) {
  const ModelPath place = resolve(path);
  const std::string chat_template = read_chat_template(place);
  ChatTurns out{text::ChatMl::find(model.text()), {}, {}, "", words};
  if (chat_template.empty()) {
    out.start = model.text().encode("");
    return out;
  }
  const Tokens tokens = special_tokens(place, model, chat_template);
  const text::ChatForm form = text::compare_with_chat_ml(chat_template, tokens, with_system);
  const text::ChatForm other = text::compare_with_chat_ml(chat_template, tokens, !with_system);
  const bool plain = form.difference.empty(), other_is_plain = other.difference.empty();
  const std::string& other_form = with_system ? words.without_system : words.with_system;
  if (!plain) out.refusal = refusal_of(path, form, other_is_plain ? other_form : "", words);
  if (!plain && !(goes_on && other_is_plain)) fail(ErrorKind::kInput, "{}", out.refusal);
  if (!out.turns) {
    fail(ErrorKind::kInput, "{}: the tokenizer lacks the control tokens of its chat template; {}", path,
         words.without_turns);
  }
  out.start = start_of(path, model, plain ? form.start : other.start, words);
  // A conversation from a file may have a system turn or none.
  for (const text::ChatForm* one : {&form, &other}) {
    if (!one->difference.empty()) continue;
    out.conditions.insert(out.conditions.end(), one->conditions.begin(), one->conditions.end());
  }
  return out;
}

std::vector<int32_t> ChatTurns::ask(std::span<const int32_t> seen, const std::string& system, const std::string& text,
                                    size_t checked) const {
  if (seen.empty() && !refusal.empty()) fail(ErrorKind::kInput, "{}", refusal);
  std::vector<text::ChatTurn> before;
  if (!conditions.empty()) before = turns->turns_of(seen.subspan(checked));
  for (const text::ChatCondition& condition : conditions) {
    check(condition, {"user", text}, words.user, words);
    if (seen.empty()) check(condition, {"system", system}, words.system, words);
    for (const text::ChatTurn& turn : before) {
      check(condition, turn, turn.role == "assistant" ? "an answer" : "an earlier turn", words);
    }
  }
  return turns->ask(seen, start, system, text);
}

}  // namespace carousel::model
