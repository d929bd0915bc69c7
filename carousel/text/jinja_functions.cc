// SPDX-License-Identifier: Apache-2.0
// Operators, tests, filters and methods on values that may hold unknown letters.
#include "carousel/text/jinja_functions.h"

#include <algorithm>
#include <cctype>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

using Kind = JinjaValue::Kind;

constexpr size_t kMaxItems = 1 << 12;  // in a list: every statement may double one
constexpr std::string_view kSpaces = " \t\n\v\f\r";

[[noreturn]] void unknown(const std::string& what) { fail(ErrorKind::kInput, "{} is not known here", what); }

bool is_number(const JinjaValue& value) { return value.kind == Kind::kBoolean || value.kind == Kind::kInteger; }

const std::string& letters_of(const JinjaText& text) {
  static const std::string none;
  return text.empty() ? none : text[0].text;
}

bool equal(const JinjaValue& a, const JinjaValue& b) {
  if (is_number(a) && is_number(b)) return a.number == b.number;
  if (a.kind != b.kind) return false;
  if (a.kind == Kind::kUndefined || a.kind == Kind::kNone) return true;
  if (a.kind != Kind::kText) unknown("a comparison of lists");
  if (a.text == b.text) return true;
  const auto some_letter = [](const JinjaPiece& piece) { return !piece.changed; };
  const bool empty = a.text.empty() || b.text.empty();
  const JinjaText& other = a.text.empty() ? b.text : a.text;
  if (empty && std::any_of(other.begin(), other.end(), some_letter)) return false;
  if (!is_known(a.text) || !is_known(b.text)) unknown("a comparison of a message's text");
  return false;
}

bool holds(const JinjaValue& container, const JinjaValue& value) {
  if (container.kind == Kind::kMap && value.kind == Kind::kText && is_known(value.text)) {
    return container.map->contains(letters_of(value.text));
  }
  if (container.kind == Kind::kList) {
    return std::any_of(container.list->begin(), container.list->end(),
                       [&](const JinjaValue& one) { return equal(one, value); });
  }
  const bool texts = container.kind == Kind::kText && value.kind == Kind::kText;
  if (!texts || !is_known(container.text) || !is_known(value.text)) unknown("such an \"in\"");
  return letters_of(container.text).find(letters_of(value.text)) != std::string::npos;
}

JinjaValue arithmetic(const std::string& op, int64_t a, int64_t b) {
  constexpr int64_t kMost = int64_t{1} << 31;  // integers of Jinja have no end; those of templates count messages
  if (std::max(std::abs(a), std::abs(b)) > kMost) unknown("so large a number");
  if (op == "+") return JinjaValue::integer(a + b);
  if (op == "-") return JinjaValue::integer(a - b);
  const bool divides = op == "//" || op == "%";
  if (divides && b != 0) {  // rounded down
    const int64_t rest = (a % b + b) % b;
    return JinjaValue::integer(op == "%" ? (b < 0 && rest != 0 ? rest + b : rest) : (a - (a % b + b) % b) / b);
  }
  unknown("the operator \"" + op + "\"");
}

std::string trimmed(const std::string& text, bool left, bool right) {
  const size_t begin = left ? text.find_first_not_of(kSpaces) : 0;
  if (begin == std::string::npos) return "";
  const size_t last = text.find_last_not_of(kSpaces);
  if (last == std::string::npos) return "";
  return text.substr(begin, right ? last + 1 - begin : std::string::npos);
}

std::string with_case(std::string text, const std::string& name) {
  if (std::any_of(text.begin(), text.end(), [](char c) { return (c & 0x80) != 0; })) unknown("\"" + name + "\"");
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    const bool up = name == "upper" || (name == "capitalize" && i == 0);
    text[i] = static_cast<char>(up ? std::toupper(c) : std::tolower(c));
  }
  return text;
}

// A function from text to text. Its result for unknown letters is unknown too, and is named after the function.
JinjaValue text_function(const std::string& name, const JinjaText& text, const JinjaValues& arguments) {
  const bool strips = name == "trim" || name == "strip" || name == "lstrip" || name == "rstrip";
  const bool cases = name == "upper" || name == "lower" || name == "capitalize";
  if (!strips && !cases && name != "title" && name != "replace") unknown("\"" + name + "\"");
  if (text.empty()) return JinjaValue::of(JinjaText());
  if (!is_known(text)) {
    std::string of = text.size() == 1 ? text[0].text : spell(text);
    return JinjaValue::of({{of + " | " + name, true, true}});
  }
  if (!arguments.empty() || (!strips && !cases)) unknown("\"" + name + "\" with such arguments");
  const std::string& letters = letters_of(text);
  return JinjaValue::of(
      known_text(strips ? trimmed(letters, name != "rstrip", name != "lstrip") : with_case(letters, name)));
}

JinjaValue length_of(const JinjaValue& value) {
  if (value.kind == Kind::kList) return JinjaValue::integer(static_cast<int64_t>(value.list->size()));
  if (value.kind == Kind::kMap) return JinjaValue::integer(static_cast<int64_t>(value.map->size()));
  if (value.kind != Kind::kText || !is_known(value.text)) unknown("the length of a message's text");
  const std::string& letters = letters_of(value.text);
  return JinjaValue::integer(std::count_if(letters.begin(), letters.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

bool truth(const JinjaValue& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBoolean:
    case Kind::kInteger:
      return value.number != 0;
    case Kind::kList:
      return !value.list->empty();
    case Kind::kMap:
      return !value.map->empty();
    case Kind::kMacro:
      return true;
    case Kind::kText:
      break;
  }
  const bool all_changed =
      std::all_of(value.text.begin(), value.text.end(), [](const auto& piece) { return piece.changed; });
  if (all_changed && !value.text.empty()) unknown("whether {" + value.text[0].text + "} is empty");
  return !value.text.empty();
}

JinjaText written(const JinjaValue& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return {};
    case Kind::kNone:
      return known_text("None");
    case Kind::kBoolean:
      return known_text(value.number != 0 ? "True" : "False");
    case Kind::kInteger:
      return known_text(std::to_string(value.number));
    case Kind::kText:
      return value.text;
    default:
      unknown("a list written out");
  }
}

JinjaValue binary(const std::string& op, const JinjaValue& left, const JinjaValue& right) {
  if (op == "==" || op == "!=") return JinjaValue::boolean(equal(left, right) == (op == "=="));
  if (op == "in" || op == "not in") return JinjaValue::boolean(holds(right, left) == (op == "in"));
  if (op == "~" || (op == "+" && left.kind == Kind::kText && right.kind == Kind::kText)) {
    JinjaText text = written(left);
    append(text, written(right));
    return JinjaValue::of(std::move(text));
  }
  if (op == "+" && left.kind == Kind::kList && right.kind == Kind::kList) {
    if (left.list->size() + right.list->size() > kMaxItems) unknown("so long a list");
    JinjaValue::List items = *left.list;
    items.insert(items.end(), right.list->begin(), right.list->end());
    return JinjaValue::of(std::move(items));
  }
  if (!is_number(left) || !is_number(right)) unknown("the operator \"" + op + "\" between such values");
  if (op == "<") return JinjaValue::boolean(left.number < right.number);
  if (op == ">") return JinjaValue::boolean(left.number > right.number);
  if (op == "<=") return JinjaValue::boolean(left.number <= right.number);
  if (op == ">=") return JinjaValue::boolean(left.number >= right.number);
  return arithmetic(op, left.number, right.number);
}

JinjaValue item(const JinjaValue& object, const JinjaValue& index) {
  if (object.kind == Kind::kMap && index.kind == Kind::kText && is_known(index.text)) {
    const auto found = object.map->find(letters_of(index.text));
    return found == object.map->end() ? JinjaValue() : found->second;
  }
  if (object.kind == Kind::kList && is_number(index)) {
    const auto size = static_cast<int64_t>(object.list->size());
    const int64_t at = index.number < 0 ? index.number + size : index.number;
    return at < 0 || at >= size ? JinjaValue() : (*object.list)[static_cast<size_t>(at)];
  }
  unknown("such an index");
}

JinjaValue slice(const JinjaValue& object, const JinjaValues& bounds) {
  if (object.kind != Kind::kList) unknown("a slice of a text");
  const auto size = static_cast<int64_t>(object.list->size());
  const auto bound = [&](const JinjaValue& value, int64_t absent) {
    if (value.kind == Kind::kNone) return absent;
    if (!is_number(value)) unknown("such a slice");
    return std::clamp<int64_t>(value.number < 0 ? value.number + size : value.number, 0, size);
  };
  const int64_t step = bounds[2].kind == Kind::kNone ? 1 : bounds[2].number;
  const bool whole = bounds[0].kind == Kind::kNone && bounds[1].kind == Kind::kNone;
  if (step != 1 && !(step == -1 && whole)) unknown("such a slice");
  JinjaValue::List items;
  for (int64_t i = bound(bounds[0], 0); i < bound(bounds[1], size); ++i) {
    items.push_back((*object.list)[static_cast<size_t>(i)]);
  }
  if (step == -1) std::reverse(items.begin(), items.end());
  return JinjaValue::of(std::move(items));
}

JinjaValue apply_filter(const std::string& name, const JinjaValues& values) {
  const JinjaValue& value = values[0];
  const JinjaValues arguments(values.begin() + 1, values.end());
  if (name == "default" || name == "d") {
    const bool falsy_too = arguments.size() > 1 && truth(arguments[1]);
    const bool keep = value.kind != Kind::kUndefined && (!falsy_too || truth(value));
    return keep ? value : arguments.empty() ? JinjaValue::of(JinjaText()) : arguments[0];
  }
  if (name == "length" || name == "count") return length_of(value);
  if (name == "string") return JinjaValue::of(written(value));
  if (name == "list" && value.kind == Kind::kList) return value;
  if ((name == "first" || name == "last") && value.kind == Kind::kList) {
    return item(value, JinjaValue::integer(name == "first" ? 0 : -1));
  }
  if (value.kind == Kind::kText) return text_function(name, value.text, arguments);
  unknown("the filter \"" + name + "\"");
}

bool apply_test(const std::string& name, const JinjaValues& values) {
  const JinjaValue& value = values[0];
  const Kind kind = value.kind;
  if (values.size() == 2) {
    if (name == "eq" || name == "equalto" || name == "sameas") return equal(value, values[1]);
    if (name == "ne") return !equal(value, values[1]);
    if (name == "in") return holds(values[1], value);
  }
  if (name == "defined") return kind != Kind::kUndefined;
  if (name == "undefined") return kind == Kind::kUndefined;
  if (name == "none") return kind == Kind::kNone;
  if (name == "boolean") return kind == Kind::kBoolean;
  if (name == "true" || name == "false") return kind == Kind::kBoolean && (value.number != 0) == (name == "true");
  if (name == "integer") return kind == Kind::kInteger;
  if (name == "number") return is_number(value);
  if (name == "string") return kind == Kind::kText;
  if (name == "mapping") return kind == Kind::kMap;
  if (name == "sequence" || name == "iterable") {
    return kind == Kind::kText || kind == Kind::kList || kind == Kind::kMap || kind == Kind::kUndefined;
  }
  if ((name == "even" || name == "odd") && is_number(value)) return (value.number % 2 != 0) == (name == "odd");
  unknown("the test \"" + name + "\"");
}

JinjaValue call_method(const std::string& name, const JinjaValue& object, const JinjaValues& arguments) {
  if (object.kind == Kind::kMap && name == "get" && !arguments.empty()) {
    const JinjaValue found = item(object, arguments[0]);
    if (found.kind != Kind::kUndefined) return found;
    return arguments.size() > 1 ? arguments[1] : JinjaValue::none();
  }
  if (object.kind != Kind::kText) unknown("the method \"" + name + "\"");
  if (name == "startswith" || name == "endswith") {
    if (arguments.size() != 1 || !is_known(object.text) || !is_known(arguments[0].text)) unknown("\"" + name + "\"");
    const std::string &letters = letters_of(object.text), &end = letters_of(arguments[0].text);
    return JinjaValue::boolean(name == "endswith" ? letters.ends_with(end) : letters.starts_with(end));
  }
  if (name == "trim") unknown("the method \"trim\"");
  return text_function(name, object.text, arguments);
}

}  // namespace carousel::text
