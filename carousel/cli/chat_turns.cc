// SPDX-License-Identifier: Apache-2.0
// Decides whether a chat has turns, from the template and the tokenizer.
#include "carousel/cli/chat_turns.h"

#include <fmt/format.h>

#include <algorithm>

#include "carousel/cli/prompt.h"
#include "carousel/core/error.h"
#include "carousel/model/chat_template.h"

namespace carousel::cli {
namespace {

using Tokens = std::map<std::string, std::string>;

std::string refusal_of(const std::string& path, const text::ChatForm& form, bool with_system, bool other_is_plain) {
  const std::string remedy = !other_is_plain ? "" : with_system ? "without --system it is, " : "with --system it is, ";
  return fmt::format("{}: its chat template is not plain ChatML: {}; {}--plain does without turns", path,
                     form.difference, remedy);
}

// The token that the template writes before the first turn.
std::vector<int32_t> start_of(const std::string& path, const model::Model& model, const std::string& start) {
  if (start.empty()) return {};
  const std::optional<int32_t> id = model.text().id_of(start);
  if (id && model.text().is_special(*id)) return {*id};
  fail(ErrorKind::kInput,
       "{}: its chat template writes \"{}\" before the first turn, which is no special token of the tokenizer; --plain "
       "does without turns",
       path, start);
}

Tokens special_tokens(const model::ModelPath& place, const model::Model& model, const std::string& chat_template) {
  Tokens tokens = model::read_special_tokens(place, model.config.source, model.text());
  const bool names_start = chat_template.find("bos_token") != std::string::npos;
  if (names_start && !tokens.contains("bos_token")) {
    tokens["bos_token"] = model.text().token_text(start_token(model));
  }
  return tokens;
}

void check(const text::ChatCondition& condition, const text::ChatTurn& turn, const char* whose) {
  if (turn.role != condition.role || turn.text.find(condition.text) == std::string::npos) return;
  fail(ErrorKind::kInput,
       "{} holds \"{}\": the model's chat template writes such a text in another way than plain ChatML, expected none; "
       "/undo goes back, --plain does without turns",
       whose, condition.text);
}

}  // namespace

ChatTurns find_turns(const std::string& path, const model::Model& model, bool with_system, bool goes_on) {
  const model::ModelPath place = model::resolve(path);
  const std::string chat_template = model::read_chat_template(place);
  ChatTurns out{text::ChatMl::find(model.text()), {}, {}, ""};
  if (chat_template.empty()) {
    out.start = model.text().encode("");
    return out;
  }
  const Tokens tokens = special_tokens(place, model, chat_template);
  const text::ChatForm form = text::compare_with_chat_ml(chat_template, tokens, with_system);
  const text::ChatForm other = text::compare_with_chat_ml(chat_template, tokens, !with_system);
  const bool plain = form.difference.empty(), other_is_plain = other.difference.empty();
  if (!plain) out.refusal = refusal_of(path, form, with_system, other_is_plain);
  if (!plain && !(goes_on && other_is_plain)) fail(ErrorKind::kInput, "{}", out.refusal);
  if (!out.turns) {
    fail(ErrorKind::kInput, "{}: the tokenizer lacks the control tokens of its chat template; --plain does without",
         path);
  }
  out.start = start_of(path, model, plain ? form.start : other.start);
  // A conversation from a file may be of either kind.
  for (const text::ChatForm* one : {&form, &other}) {
    if (!one->difference.empty()) continue;
    out.conditions.insert(out.conditions.end(), one->conditions.begin(), one->conditions.end());
  }
  return out;
}

std::vector<int32_t> ChatTurns::ask(std::span<const int32_t> seen, const std::string& system,
                                    const std::string& text) const {
  if (seen.empty() && !refusal.empty()) fail(ErrorKind::kInput, "{}", refusal);
  for (const text::ChatCondition& condition : conditions) {
    check(condition, {"user", text}, "what you said");
    if (seen.empty()) check(condition, {"system", system}, "--system");
    for (const text::ChatTurn& turn : turns->turns_of(seen)) {
      check(condition, turn, turn.role == "assistant" ? "an answer" : "an earlier turn");
    }
  }
  return turns->ask(seen, start, system, text);
}

}  // namespace carousel::cli
