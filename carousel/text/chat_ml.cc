// SPDX-License-Identifier: Apache-2.0
// Turns to tokens and tokens to turns, with control tokens as ids.
#include "carousel/text/chat_ml.h"

#include <algorithm>
#include <string>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

constexpr const char* kTurnStart = "<|im_start|>";
constexpr const char* kTurnEnd = "<|im_end|>";

}  // namespace

ChatMl::ChatMl(Tokenizer tokenizer, int32_t turn_start, int32_t turn_end)
    : tokenizer_(std::move(tokenizer)), turn_start_(turn_start), turn_end_(turn_end) {}

std::optional<ChatMl> ChatMl::find(const Tokenizer& tokenizer) {
  const std::optional<int32_t> start = tokenizer.id_of(kTurnStart);
  const std::optional<int32_t> end = tokenizer.id_of(kTurnEnd);
  if (!start || !end || *start == *end) return std::nullopt;
  return ChatMl(tokenizer, *start, *end);
}

void ChatMl::add_text(std::string_view text, std::vector<int32_t>& out) const {
  const std::vector<int32_t> ids = tokenizer_.encode_inner(text);
  for (const int32_t id : ids) {
    if (id == turn_start_ || id == turn_end_) {
      fail(ErrorKind::kInput, "chat: the text makes the control token \"{}\", expected text alone",
           tokenizer_.token_text(id));
    }
  }
  out.insert(out.end(), ids.begin(), ids.end());
}

void ChatMl::add_turn(std::string_view role, std::string_view text, std::vector<int32_t>& out) const {
  out.push_back(turn_start_);
  add_text(std::string(role) + "\n" + std::string(text),
           out);  // role and text are one text, as the reference splits them
  out.push_back(turn_end_);
  add_text("\n", out);
}

std::vector<int32_t> ChatMl::ask(std::span<const int32_t> seen, std::span<const int32_t> start, std::string_view system,
                                 std::string_view text) const {
  std::vector<int32_t> out;
  if (seen.empty()) {
    out.assign(start.begin(), start.end());
    if (!system.empty()) add_turn("system", system, out);
  } else {
    // The turn before may be open: the answer's end was sampled but not run, or the answer was stopped.
    const auto control = [this](int32_t id) { return id == turn_start_ || id == turn_end_; };
    const auto last = std::find_if(seen.rbegin(), seen.rend(), control);
    const bool open = last != seen.rend() && *last == turn_start_;
    if (open) out.push_back(turn_end_);
    if (open || seen.back() == turn_end_) add_text("\n", out);
  }
  add_turn("user", text, out);
  out.push_back(turn_start_);
  add_text("assistant\n", out);
  return out;
}

std::vector<int32_t> ChatMl::answer(std::string_view text) const {
  std::vector<int32_t> out;
  add_text(text, out);
  out.push_back(turn_end_);
  return out;
}

std::vector<ChatTurn> ChatMl::turns_of(std::span<const int32_t> seen) const {
  std::vector<ChatTurn> out;
  const auto control = [this](int32_t id) { return id == turn_start_ || id == turn_end_; };
  for (auto at = std::find(seen.begin(), seen.end(), turn_start_); at != seen.end();) {
    const auto end = std::find_if(at + 1, seen.end(), control);
    const std::string text = tokenizer_.decode(std::span(at + 1, end));
    const size_t head = std::min(text.find('\n'), text.size());
    out.push_back({text.substr(0, head), text.substr(std::min(head + 1, text.size()))});
    at = std::find(end, seen.end(), turn_start_);
  }
  return out;
}

}  // namespace carousel::text
