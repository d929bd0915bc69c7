// SPDX-License-Identifier: Apache-2.0
// The value of an expression of a template. A text may hold pieces whose letters are not known: the messages of a
// future conversation. The result shows what a template does with them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/jinja.h"

namespace carousel::text {

struct JinjaPiece {
  std::string text;      // the letters, or the name of a piece of unknown letters
  bool unknown = false;  // the letters are not known
  bool changed = false;  // a function made the piece from unknown letters; else it has at least one letter
  bool operator==(const JinjaPiece&) const = default;
};
/// No piece is empty, and no two known ones stand side by side, so equal texts are equal lists.
using JinjaText = std::vector<JinjaPiece>;

/// Throws Error(kInput) where the text grows beyond all templates.
void append(JinjaText& text, const JinjaText& more);
/// Letters of the known pieces and of the names of the others: what the text takes of memory.
size_t letters(const JinjaText& text);
JinjaText known_text(std::string_view letters);
JinjaText unknown_text(const std::string& name);
bool is_known(const JinjaText& text);
/// The letters of a text; for an unknown piece its name in braces.
std::string spell(const JinjaText& text);

struct JinjaValue {
  enum class Kind { kUndefined, kNone, kBoolean, kInteger, kText, kList, kMap, kMacro };
  using List = std::vector<JinjaValue>;
  using Map = std::map<std::string, JinjaValue>;

  Kind kind = Kind::kUndefined;
  int64_t number = 0;  // value of a boolean or an integer
  JinjaText text = {};
  std::shared_ptr<const List> list = {};
  std::shared_ptr<Map> map = {};  // shared: a change of a namespace is seen by all its holders
  const JinjaNode* macro = nullptr;

  static JinjaValue none() { return {.kind = Kind::kNone}; }
  static JinjaValue boolean(bool value) { return {.kind = Kind::kBoolean, .number = value}; }
  static JinjaValue integer(int64_t value) { return {.kind = Kind::kInteger, .number = value}; }
  static JinjaValue of(JinjaText text) { return {.kind = Kind::kText, .text = std::move(text)}; }
  static JinjaValue of(List items) { return {.kind = Kind::kList, .list = std::make_shared<List>(std::move(items))}; }
  static JinjaValue of(Map items) { return {.kind = Kind::kMap, .map = std::make_shared<Map>(std::move(items))}; }
};

}  // namespace carousel::text
