// SPDX-License-Identifier: Apache-2.0
// The parser of Jinja's expressions, and its way over the tokens. It is a part of jinja.cc, which has the statements.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/jinja.h"
#include "carousel/text/jinja_tokens.h"

namespace carousel::text {

class JinjaExpressions {
 protected:
  using Kind = JinjaNode::Kind;
  using Token = JinjaToken::Kind;

  explicit JinjaExpressions(std::string_view source) : tokens_(jinja_tokens(source)) {}

  JinjaNode expression() { return choice(true); }
  JinjaNode tuple();               // a tuple, or one expression
  JinjaNode choice(bool with_if);  // "a if b else c", where `with_if`

  // Every rule that may contain itself counts how deep it is.
  struct Deeper {
    explicit Deeper(JinjaExpressions& parser);
    ~Deeper() { --depth; }
    int& depth;
  };

  const JinjaToken& now() const { return tokens_[at_]; }
  bool is(const char* text) const { return now().kind == Token::kOperator && now().text == text; }
  bool is_name(const char* text) const { return now().kind == Token::kName && now().text == text; }
  bool take(const char* text) { return is(text) && ++at_ > 0; }
  bool take_name(const char* text) { return is_name(text) && ++at_ > 0; }
  // These throw Error(kInput) where the next token is another one.
  void expect(const char* text);
  void expect(Token kind);
  std::string name();
  [[noreturn]] void wrong(const std::string& what) const;
  JinjaNode node(Kind kind, std::string text = "", std::vector<JinjaNode> parts = {}) const;
  void adopt(JinjaNode& parent, JinjaNode part) const;  // makes `part` the last part of `parent`

  std::vector<JinjaToken> tokens_;
  size_t at_ = 0;
  int depth_ = 0;

 private:
  // One rule of the grammar each, the loosest binding first.
  JinjaNode either();
  JinjaNode both();
  JinjaNode negated();
  JinjaNode comparison();
  JinjaNode left_to_right(std::initializer_list<const char*> operators, JinjaNode (JinjaExpressions::*next)());
  JinjaNode sum();
  JinjaNode joined();
  JinjaNode product();
  JinjaNode power();
  JinjaNode signed_value(bool with_filters);
  JinjaNode unfiltered() { return signed_value(true); }
  JinjaNode primary();
  JinjaNode bracketed();
  JinjaNode with_postfix(JinjaNode value);
  JinjaNode subscript(JinjaNode value);
  void arguments(JinjaNode& out);
  JinjaNode filtered(JinjaNode value);
  bool takes_argument() const;
};

}  // namespace carousel::text
