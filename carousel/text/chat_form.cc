// SPDX-License-Identifier: Apache-2.0
// Evaluates a template on conversations of unknown letters and compares the result with ChatML.
#include "carousel/text/chat_form.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/text/jinja.h"
#include "carousel/text/jinja_render.h"

namespace carousel::text {
namespace {

constexpr size_t kMaxTemplateBytes = size_t{1} << 18;
constexpr int kTurns = 4;  // of the user, in the longest conversation tried
constexpr const char* kTurnStart = "<|im_start|>";
constexpr const char* kTurnEnd = "<|im_end|>";

struct Message {
  std::string role;
  JinjaText content;
};

// What an unknown text of message `index` is called: "user text 3". Messages have distinct ones, or one written twice
// in place of another would not show.
std::string name_of(const std::string& role, size_t index) { return fmt::format("{} text {}", role, index); }

// A conversation that waits for its `turns`-th answer. The answer before `empty_answer` (from 1; 0: none) is empty.
std::vector<Message> conversation(bool with_system, int turns, int empty_answer) {
  std::vector<Message> out;
  const auto add = [&](const std::string& role, bool empty) {
    out.push_back({role, empty ? JinjaText() : unknown_text(name_of(role, out.size() + 1))});
  };
  if (with_system) add("system", false);
  for (int turn = 1; turn <= turns; ++turn) {
    add("user", false);
    if (turn < turns) add("assistant", turn == empty_answer);
  }
  return out;
}

JinjaText chat_ml(const std::vector<Message>& messages) {
  JinjaText out;
  for (const Message& message : messages) {
    append(out, known_text(kTurnStart + message.role + "\n"));
    append(out, message.content);
    append(out, known_text(std::string(kTurnEnd) + "\n"));
  }
  append(out, known_text(std::string(kTurnStart) + "assistant\n"));
  return out;
}

JinjaValue::Map variables(const std::vector<Message>& messages, const std::map<std::string, std::string>& tokens) {
  JinjaValue::List list;
  for (const Message& message : messages) {
    list.push_back(JinjaValue::of(JinjaValue::Map{{"role", JinjaValue::of(known_text(message.role))},
                                                  {"content", JinjaValue::of(message.content)}}));
  }
  JinjaValue::Map out{{"messages", JinjaValue::of(std::move(list))},
                      {"tools", JinjaValue::none()},
                      {"documents", JinjaValue::none()},
                      {"add_generation_prompt", JinjaValue::boolean(true)}};
  for (const auto& [name, text] : tokens) out[name] = JinjaValue::of(known_text(text));
  return out;
}

std::string shortened(std::string text) {
  constexpr size_t kMost = 60;
  if (text.size() > kMost) {
    text.resize(kMost);
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0) == 0x80) text.pop_back();
    if (!text.empty() && (text.back() & 0x80) != 0) text.pop_back();
    text += "...";
  }
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else {
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

// Both from the last turn's head that they share up to where they part, and a little further.
std::string parting(const std::string& got, const std::string& due) {
  const size_t common =
      static_cast<size_t>(std::mismatch(got.begin(), got.end(), due.begin(), due.end()).first - got.begin());
  size_t begin = got.rfind(kTurnStart, std::max<size_t>(common, 1) - 1);
  if (begin == std::string::npos || begin > common) begin = 0;
  const auto excerpt = [&](const std::string& text, size_t from) {
    if (from >= text.size()) return std::string("nothing");
    const size_t next = text.find(kTurnStart, std::max(common, from + 1));
    return "\"" + shortened(text.substr(from, std::min(next, text.size()) - from)) + "\"";
  };
  if (excerpt(got, begin) == excerpt(due, begin)) begin = common;
  return fmt::format("it writes {} where ChatML has {}", excerpt(got, begin), excerpt(due, begin));
}

// Takes what stands before the first turn off `text`; unset where that holds unknown letters.
std::optional<std::string> take_start(JinjaText& text) {
  if (text.empty() || text[0].unknown) return {};
  const size_t turn = text[0].text.find(kTurnStart);
  if (turn == std::string::npos) return {};
  std::string start = text[0].text.substr(0, turn);
  text[0].text.erase(0, turn);
  return start;
}

class Comparison {
 public:
  Comparison(const JinjaNode& source, const std::map<std::string, std::string>& tokens, bool with_system)
      : source_(source), tokens_(tokens), with_system_(with_system) {}

  ChatForm run() {
    for (int turns = 1; turns <= kTurns; ++turns) {
      for (int empty_answer = 0; empty_answer < turns; ++empty_answer) try_one(turns, empty_answer);
    }
    return std::move(form_);
  }

 private:
  void try_one(int turns, int empty_answer) {
    if (!form_.difference.empty()) return;
    const std::vector<Message> messages = conversation(with_system_, turns, empty_answer);
    JinjaRendered rendered = render_jinja(source_, variables(messages, tokens_));
    const JinjaText due = chat_ml(messages);
    const std::string whole = spell(rendered.text);
    const std::optional<std::string> start = take_start(rendered.text);
    const bool first = turns == 1 && empty_answer == 0;
    if (first && start) form_.start = *start;
    if (!start || *start != form_.start || rendered.text != due) {
      form_.difference = parting(start ? spell(rendered.text) : whole, spell(due));
      return;
    }
    for (const JinjaAssumption& assumption : rendered.assumed) {
      ChatCondition condition{assumption.of.substr(0, assumption.of.find(' ')), assumption.text};
      auto& known = form_.conditions;
      if (std::find(known.begin(), known.end(), condition) == known.end()) known.push_back(std::move(condition));
    }
  }

  const JinjaNode& source_;
  const std::map<std::string, std::string>& tokens_;
  bool with_system_;
  ChatForm form_;
};

}  // namespace

ChatForm compare_with_chat_ml(std::string_view chat_template, const std::map<std::string, std::string>& special_tokens,
                              bool with_system) {
  ChatForm refused;
  if (chat_template.size() > kMaxTemplateBytes) {
    refused.difference =
        fmt::format("it has {} bytes, of which at most {} are read", chat_template.size(), kMaxTemplateBytes);
    return refused;
  }
  try {
    const JinjaNode source = parse_jinja(chat_template);
    return Comparison(source, special_tokens, with_system).run();
  } catch (const Error& error) {
    refused.difference = error.what();
  }
  return refused;
}

}  // namespace carousel::text
