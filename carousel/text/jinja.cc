// SPDX-License-Identifier: Apache-2.0
// Parses the statements of Jinja.
#include "carousel/text/jinja.h"

#include <algorithm>
#include <utility>

#include "carousel/text/jinja_expressions.h"

namespace carousel::text {
namespace {

class Parser : JinjaExpressions {
 public:
  explicit Parser(std::string_view source) : JinjaExpressions(source) {}

  JinjaNode run() { return block({}); }

 private:
  // Whether the next statement is one of `words`.
  bool at_statement(const std::vector<std::string>& words) const {
    if (now().kind != Token::kBlockBegin) return false;
    return std::find(words.begin(), words.end(), tokens_[at_ + 1].text) != words.end();
  }

  // Statements up to one that begins with one of `ends`, which is left.
  JinjaNode block(const std::vector<std::string>& ends) {
    const Deeper deeper(*this);
    JinjaNode out = node(Kind::kBlock);
    while (now().kind != Token::kEnd && !at_statement(ends)) {
      if (now().kind == Token::kText) {
        adopt(out, node(Kind::kText, now().text));
        ++at_;
      } else if (now().kind == Token::kPrintBegin) {
        ++at_;
        JinjaNode print = node(Kind::kPrint);
        adopt(print, tuple());
        adopt(out, std::move(print));
        expect(Token::kPrintEnd);
      } else {
        ++at_;
        adopt(out, statement());
      }
    }
    return out;
  }

  // Goes past {% word %}.
  void end_statement(const char* word) {
    if (!at_statement({word})) wrong(std::string("a statement without its \"") + word + "\"");
    at_ += 2;
    expect(Token::kBlockEnd);
  }

  JinjaNode statement() {
    const JinjaToken& keyword = now();
    if (keyword.kind != Token::kName) wrong("\"" + keyword.text + "\" where a statement is due");
    ++at_;
    if (keyword.text == "if") return if_statement();
    if (keyword.text == "for") return for_statement();
    if (keyword.text == "set") return set_statement();
    if (keyword.text == "macro") return macro_statement();
    if (keyword.text == "generation") {  // marks an answer for training; writes nothing
      expect(Token::kBlockEnd);
      JinjaNode body = block({"endgeneration"});
      end_statement("endgeneration");
      return body;
    }
    if (keyword.text == "break" || keyword.text == "continue") {
      expect(Token::kBlockEnd);
      return node(Kind::kNotKnown, "the statement \"" + keyword.text + "\"");
    }
    --at_;
    wrong("the statement \"" + keyword.text + "\"");
  }

  JinjaNode if_statement() {
    JinjaNode out = node(Kind::kIf);
    for (;;) {
      adopt(out, tuple());
      expect(Token::kBlockEnd);
      adopt(out, block({"elif", "else", "endif"}));
      if (!at_statement({"elif"})) break;
      at_ += 2;
    }
    if (at_statement({"else"})) {
      end_statement("else");
      adopt(out, block({"endif"}));
    }
    end_statement("endif");
    return out;
  }

  JinjaNode for_statement() {
    JinjaNode out = node(Kind::kFor, name());
    std::string unknown;
    while (take(",")) {
      name();
      unknown = "a loop over pairs";
    }
    if (!take_name("in")) wrong("a loop without \"in\"");
    adopt(out, choice(false));
    if (take_name("if")) {
      expression();
      unknown = "a loop with a condition";
    }
    if (take_name("recursive")) unknown = "a recursive loop";
    expect(Token::kBlockEnd);
    adopt(out, block({"endfor", "else"}));
    if (at_statement({"else"})) {
      end_statement("else");
      block({"endfor"});
      unknown = "a loop with an else";
    }
    end_statement("endfor");
    return unknown.empty() ? out : node(Kind::kNotKnown, unknown);
  }

  JinjaNode set_statement() {
    JinjaNode out = node(Kind::kSet);
    adopt(out, node(Kind::kName, name()));
    if (take(".")) out.parts.back() = node(Kind::kAttribute, name(), {out.parts.back()});
    if (take("=")) {
      adopt(out, tuple());
      expect(Token::kBlockEnd);
      return out;
    }
    if (!take(",")) {
      expect(Token::kBlockEnd);
      block({"endset"});
      end_statement("endset");
      return node(Kind::kNotKnown, "the statement \"set\" with a block");
    }
    wrong("the statement \"set\" with several names");
  }

  JinjaNode macro_statement() {
    JinjaNode out = node(Kind::kMacro, name());
    expect("(");
    while (!take(")")) {
      JinjaNode parameter = node(Kind::kName, name());
      if (take("=")) parameter = node(Kind::kKeyword, parameter.text, {expression()});
      adopt(out, std::move(parameter));
      if (!is(")")) expect(",");
    }
    expect(Token::kBlockEnd);
    adopt(out, block({"endmacro"}));
    end_statement("endmacro");
    return out;
  }
};

}  // namespace

JinjaNode parse_jinja(std::string_view source) { return Parser(source).run(); }

}  // namespace carousel::text
