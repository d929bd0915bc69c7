// SPDX-License-Identifier: Apache-2.0
// Parses the expressions of Jinja by recursive descent.
#include "carousel/text/jinja_expressions.h"

#include <algorithm>
#include <utility>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

using Words = std::initializer_list<const char*>;

constexpr int kMaxDepth = 200;

}  // namespace

JinjaExpressions::Deeper::Deeper(JinjaExpressions& parser) : depth(parser.depth_) {
  if (++depth > kMaxDepth) parser.wrong("such deep nesting");
}

void JinjaExpressions::expect(const char* text) {
  if (!take(text)) wrong("\"" + now().text + "\" where \"" + text + "\" is due");
}

void JinjaExpressions::expect(Token kind) {
  if (now().kind != kind) wrong("\"" + now().text + "\" where a tag should end");
  ++at_;
}

std::string JinjaExpressions::name() {
  if (now().kind != Token::kName) wrong("\"" + now().text + "\" where a name is due");
  return tokens_[at_++].text;
}

void JinjaExpressions::wrong(const std::string& what) const {
  fail(ErrorKind::kInput, "line {}: {} is not known here", now().line, what);
}

JinjaNode JinjaExpressions::node(Kind kind, std::string text, std::vector<JinjaNode> parts) const {
  JinjaNode out{kind, std::move(text), 0, {}, now().line};
  for (JinjaNode& part : parts) adopt(out, std::move(part));
  return out;
}

void JinjaExpressions::adopt(JinjaNode& parent, JinjaNode part) const {
  parent.depth = std::max(parent.depth, part.depth + 1);
  if (parent.depth > kMaxDepth) wrong("such deep nesting");
  parent.parts.push_back(std::move(part));
}

JinjaNode JinjaExpressions::tuple() {
  JinjaNode first = expression();
  if (!is(",")) return first;
  JinjaNode out = node(Kind::kList, "", {std::move(first)});
  while (take(",")) adopt(out, expression());
  return out;
}

JinjaNode JinjaExpressions::choice(bool with_if) {
  const Deeper deeper(*this);
  JinjaNode value = either();
  while (with_if && take_name("if")) {
    JinjaNode condition = either();
    value = node(Kind::kChoice, "", {std::move(condition), std::move(value)});
    if (take_name("else")) adopt(value, choice(true));
  }
  return value;
}

JinjaNode JinjaExpressions::either() {
  JinjaNode left = both();
  while (take_name("or")) left = node(Kind::kOr, "", {left, both()});
  return left;
}

JinjaNode JinjaExpressions::both() {
  JinjaNode left = negated();
  while (take_name("and")) left = node(Kind::kAnd, "", {left, negated()});
  return left;
}

JinjaNode JinjaExpressions::negated() {
  const Deeper deeper(*this);
  if (take_name("not")) return node(Kind::kNot, "", {negated()});
  return comparison();
}

JinjaNode JinjaExpressions::comparison() {
  JinjaNode left = sum();
  bool compared = false;
  for (;;) {
    std::string op;
    for (const char* known : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (op.empty() && take(known)) op = known;
    }
    if (op.empty() && take_name("in")) op = "in";
    if (op.empty() && is_name("not") && tokens_[at_ + 1].text == "in") {
      at_ += 2;
      op = "not in";
    }
    if (op.empty()) return left;
    if (compared) wrong("a chain of comparisons");
    compared = true;
    left = node(Kind::kBinary, op, {left, sum()});
  }
}

JinjaNode JinjaExpressions::left_to_right(Words operators, JinjaNode (JinjaExpressions::*next)()) {
  JinjaNode left = (this->*next)();
  for (;;) {
    std::string op;
    for (const char* known : operators) {
      if (op.empty() && take(known)) op = known;
    }
    if (op.empty()) return left;
    left = node(Kind::kBinary, op, {left, (this->*next)()});
  }
}

JinjaNode JinjaExpressions::sum() { return left_to_right({"+", "-"}, &JinjaExpressions::joined); }
JinjaNode JinjaExpressions::joined() { return left_to_right({"~"}, &JinjaExpressions::product); }
JinjaNode JinjaExpressions::product() { return left_to_right({"*", "//", "/", "%"}, &JinjaExpressions::power); }
JinjaNode JinjaExpressions::power() { return left_to_right({"**"}, &JinjaExpressions::unfiltered); }

JinjaNode JinjaExpressions::signed_value(bool with_filters) {
  const Deeper deeper(*this);
  JinjaNode value;
  if (take("-")) {
    value = node(Kind::kMinus, "", {signed_value(false)});
  } else if (take("+")) {
    value = signed_value(false);
  } else {
    value = with_postfix(primary());
  }
  return with_filters ? filtered(std::move(value)) : value;
}

JinjaNode JinjaExpressions::primary() {
  const JinjaToken token = now();
  if (token.kind == Token::kOperator) return bracketed();
  if (token.kind != Token::kName && token.kind != Token::kString && token.kind != Token::kInteger) {
    wrong("an expression that breaks off");
  }
  ++at_;
  if (token.kind == Token::kInteger) {
    JinjaNode out = node(Kind::kInteger);
    out.number = std::stoll(token.text);
    return out;
  }
  if (token.kind == Token::kString) {
    JinjaNode out = node(Kind::kString, token.text);
    while (now().kind == Token::kString) out.text += tokens_[at_++].text;
    return out;
  }
  if (token.text == "none" || token.text == "None") return node(Kind::kNone);
  const bool yes = token.text == "true" || token.text == "True";
  if (yes || token.text == "false" || token.text == "False") {
    JinjaNode out = node(Kind::kBoolean);
    out.number = yes;
    return out;
  }
  return node(Kind::kName, token.text);
}

JinjaNode JinjaExpressions::bracketed() {
  if (take("(")) {
    if (take(")")) return node(Kind::kList);
    JinjaNode inner = tuple();
    expect(")");
    return inner;
  }
  if (take("[")) {
    JinjaNode out = node(Kind::kList);
    while (!take("]")) {
      adopt(out, expression());
      if (!is("]")) expect(",");
    }
    return out;
  }
  if (take("{")) {
    while (!take("}")) {
      expression();
      expect(":");
      expression();
      if (!is("}")) expect(",");
    }
    return node(Kind::kNotKnown, "a dictionary");
  }
  wrong("\"" + now().text + "\" where a value is due");
}

JinjaNode JinjaExpressions::with_postfix(JinjaNode value) {
  for (;;) {
    if (take(".")) {
      value = node(Kind::kAttribute, name(), {std::move(value)});
    } else if (take("[")) {
      value = subscript(std::move(value));
    } else if (is("(")) {
      value = node(Kind::kCall, "", {std::move(value)});
      arguments(value);
    } else {
      return value;
    }
  }
}

JinjaNode JinjaExpressions::subscript(JinjaNode value) {
  std::vector<JinjaNode> bounds(1, node(Kind::kNone));
  bool slice = false;
  while (!take("]")) {
    if (take(":")) {
      slice = true;
      bounds.push_back(node(Kind::kNone));
    } else {
      bounds.back() = expression();
    }
  }
  if (!slice) return node(Kind::kItem, "", {std::move(value), bounds[0]});
  if (bounds.size() > 3) wrong("a slice of four bounds");
  bounds.resize(3, node(Kind::kNone));
  return node(Kind::kSlice, "", {std::move(value), bounds[0], bounds[1], bounds[2]});
}

void JinjaExpressions::arguments(JinjaNode& out) {
  expect("(");
  while (!take(")")) {
    const bool keyword =
        now().kind == Token::kName && tokens_[at_ + 1].kind == Token::kOperator && tokens_[at_ + 1].text == "=";
    if (keyword) {
      JinjaNode argument = node(Kind::kKeyword, name());
      expect("=");
      adopt(argument, expression());
      adopt(out, std::move(argument));
    } else {
      adopt(out, expression());
    }
    if (!is(")")) expect(",");
  }
}

JinjaNode JinjaExpressions::filtered(JinjaNode value) {
  for (;;) {
    if (take("|")) {
      value = node(Kind::kFilter, name(), {std::move(value)});
      if (is("(")) arguments(value);
    } else if (take_name("is")) {
      const bool negated = take_name("not");
      value = node(Kind::kTest, name(), {std::move(value)});
      if (is("(")) {
        arguments(value);
      } else if (takes_argument()) {
        adopt(value, with_postfix(primary()));
      }
      if (negated) value = node(Kind::kNot, "", {std::move(value)});
    } else if (is("(")) {
      value = node(Kind::kCall, "", {std::move(value)});
      arguments(value);
    } else {
      return value;
    }
  }
}

// Whether a test's argument follows without brackets: "is divisibleby 2".
bool JinjaExpressions::takes_argument() const {
  if (now().kind == Token::kString || now().kind == Token::kInteger || is("[") || is("{")) return true;
  const Words words{"else", "or", "and", "is", "if", "in", "not"};
  const auto same = [this](const char* word) { return now().text == word; };
  return now().kind == Token::kName && std::none_of(words.begin(), words.end(), same);
}

}  // namespace carousel::text
