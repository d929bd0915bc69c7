// SPDX-License-Identifier: Apache-2.0
// A parser of declarations. Expressions are looked through for lambdas and classes only. A '<' opens a template's
// arguments if it follows a name and a '>' closes it before the expression ends.
#include "tests/layering/functions.h"

#include <cctype>
#include <set>

namespace carousel::layering {
namespace {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)), match_(tokens_.size(), 0) {}

  /// False if brackets do not match.
  bool parse() {
    if (!match_brackets()) return false;
    size_t at = 0;
    while (at < tokens_.size()) at = scope(at) + 1;
    return true;
  }
  std::vector<Function> take() { return std::move(found_); }

 private:
  const std::string& text(size_t at) const {
    static const std::string end;
    return at < tokens_.size() ? tokens_[at].text : end;
  }
  bool is(size_t at, const char* what) const { return text(at) == what; }
  bool is_name(size_t at) const {
    return !text(at).empty() && (std::isalpha(static_cast<unsigned char>(text(at)[0])) != 0 || text(at)[0] == '_');
  }
  size_t line(size_t at) const { return tokens_[at < tokens_.size() ? at : tokens_.size() - 1].line; }

  bool match_brackets() {
    std::vector<size_t> open;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string& token = tokens_[i].text;
      if (token == "(" || token == "[" || token == "{") open.push_back(i);
      if (token != ")" && token != "]" && token != "}") continue;
      if (open.empty()) return false;
      const std::string& opening = tokens_[open.back()].text;
      if ((token == ")") != (opening == "(") || (token == "]") != (opening == "[")) return false;
      match_[open.back()] = i;
      open.pop_back();
    }
    return open.empty();
  }

  bool opens(size_t at) const { return is(at, "(") || is(at, "[") || is(at, "{"); }
  /// Behind the bracket that closes the one here.
  size_t behind(size_t at) const { return match_[at] + 1; }

  /// Behind the template arguments that open here; `at` + 1 if '<' is a comparison.
  size_t behind_angles(size_t at) const {
    int depth = 0;
    for (size_t i = at; i < tokens_.size();) {
      if (opens(i)) {
        i = behind(i);
        continue;
      }
      if (is(i, "<")) ++depth;
      if (is(i, ">") && --depth == 0) return i + 1;
      const bool reference = is(i, "&&") && (is(i + 1, ">") || is(i + 1, ",") || is(i + 1, "..."));
      if (is(i, ";") || is(i, "||") || (is(i, "&&") && !reference) || is(i, ")") || is(i, "}")) break;
      ++i;
    }
    return at + 1;
  }
  bool opens_angles(size_t at) const { return is(at, "<") && at > 0 && is_name(at - 1) && !is(at - 1, "operator"); }

  int count_parameters(size_t open) const {
    const size_t close = match_[open];
    if (close == open + 1 || (close == open + 2 && is(open + 1, "void"))) return 0;
    int count = 1;
    for (size_t i = open + 1; i < close;) {
      if (opens(i)) {
        i = behind(i);
      } else if (opens_angles(i)) {
        i = behind_angles(i);
      } else {
        count += is(i, ",") ? 1 : 0;
        ++i;
      }
    }
    return count;
  }

  void add(const std::string& name, size_t first, size_t last, size_t parameters, bool defined) {
    found_.push_back({name, line(first), line(last), count_parameters(parameters), defined});
  }

  /// Declarations up to the brace that ends the scope, which is returned, or the end of the file.
  size_t scope(size_t at) {
    while (at < tokens_.size() && !is(at, "}")) at = declaration(at);
    return at;
  }

  size_t declaration(size_t at) {
    static const std::set<std::string> access = {"public", "private", "protected"};
    if (is(at, ";")) return at + 1;
    if (access.count(text(at)) != 0 && is(at + 1, ":")) return at + 2;
    if (is(at, "template") && is(at + 1, "<")) return behind_angles(at + 1);
    if (is(at, "[")) return behind(at);  // an attribute
    if (is(at, "friend") || (is(at, "inline") && is(at + 1, "namespace"))) return at + 1;
    if (is(at, "extern") && is(at + 1, "{")) return scope(at + 2) + 1;
    if (is(at, "using") || is(at, "typedef") || is(at, "static_assert")) return statement(at);
    if (is(at, "namespace")) {
      while (at < tokens_.size() && !is(at, "{") && !is(at, ";")) ++at;
      return is(at, "{") ? scope(at + 1) + 1 : at + 1;
    }
    if (is(at, "enum")) return statement(at);
    const size_t body = class_body(at);
    return body != 0 ? statement(scope(body + 1) + 1) : function_or_variable(at);
  }

  /// The brace that opens the body of the class defined here; 0 if none is.
  size_t class_body(size_t at) const {
    if (!is(at, "class") && !is(at, "struct") && !is(at, "union")) return 0;
    for (size_t i = at + 1; i < tokens_.size();) {
      if (is(i, "{")) return i;
      if (is(i, "[") || is(i, "alignas") || is(i, "__attribute__")) {
        i = is(i, "[") ? behind(i) : behind(i + 1);
      } else if (is(i, ":")) {
        while (i < tokens_.size() && !is(i, "{")) i = is(i, "(") ? behind(i) : i + 1;
      } else if (opens_angles(i)) {
        i = behind_angles(i);
      } else if (is_name(i) || is(i, "::")) {
        ++i;
      } else {
        return 0;
      }
    }
    return 0;
  }

  /// Behind the semicolon that ends what is here.
  size_t statement(size_t at) {
    while (at < tokens_.size() && !is(at, ";") && !is(at, "}")) {
      if (opens(at)) look_inside(at, behind(at));
      at = opens(at) ? behind(at) : at + 1;
    }
    return is(at, ";") ? at + 1 : at;
  }

  size_t function_or_variable(size_t first) {
    static const std::set<std::string> words = {"alignas", "__attribute__", "decltype", "explicit", "noexcept"};
    for (size_t at = first; at < tokens_.size();) {
      if (is(at, "operator")) {
        size_t open = at + 1;
        while (open < tokens_.size() && !is(open, "(")) ++open;
        if (open == at + 1) open += 2;  // operator()
        return function("operator", first, open);
      }
      if (is(at, "(")) {
        if (at > first && words.count(text(at - 1)) != 0) {
          at = behind(at);
        } else if (is(at + 1, "*") || is(at + 1, "&")) {
          const size_t open = behind(at);
          if (is(open, "(")) add(text(match_[at] - 1), first, open, open, false);
          return statement(open);
        } else {
          return function(at > first ? text(at - 1) : "", first, at);
        }
      } else if (opens_angles(at)) {
        at = behind_angles(at);
      } else if (is(at, "=") || is(at, "{")) {
        const size_t end = statement(at);
        look_inside(at, end);
        return end;
      } else if (is(at, ";")) {
        return at + 1;
      } else if (is(at, "}")) {
        return at;
      } else {
        at = is(at, "[") ? behind(at) : at + 1;
      }
    }
    return tokens_.size();
  }

  /// A function whose parameters open at `open`.
  size_t function(const std::string& name, size_t first, size_t open) {
    size_t at = behind(open);
    while (at < tokens_.size()) {
      if (is(at, ":")) at = behind_initialisers(at);
      if (is(at, "{")) {
        const size_t close = match_[at];
        add(name, first, close, open, true);
        look_inside(open, at);
        look_inside(at + 1, close);
        return close + 1;
      }
      if (is(at, ";") || is(at, "=") || is(at, ",") || is(at, "}")) {
        add(name, first, at, open, false);
        look_inside(open, behind(open));
        return statement(at);
      }
      at = opens(at) ? behind(at) : opens_angles(at) ? behind_angles(at) : at + 1;
    }
    return at;
  }

  /// From the colon behind a constructor's parameters to the brace of its body.
  size_t behind_initialisers(size_t at) {
    do {
      ++at;
      while (at < tokens_.size() && !is(at, "(") && !is(at, "{")) at = opens_angles(at) ? behind_angles(at) : at + 1;
      if (at >= tokens_.size()) return at;
      look_inside(at, behind(at));
      at = behind(at);
      if (is(at, "...")) ++at;
    } while (is(at, ","));
    return at;
  }

  /// Lambdas and classes among expressions and statements.
  void look_inside(size_t first, size_t end) {
    for (size_t at = first; at < end; ++at) {
      if (is(at, "[")) {
        const bool index = at > 0 && !is(at - 1, "return") && (is_name(at - 1) || is(at - 1, ")") || is(at - 1, "]"));
        if (!index && !is(at + 1, "[")) lambda(at);
      }
      const size_t body = at > 0 && is(at - 1, "enum") ? 0 : class_body(at);
      if (body != 0 && body < end) at = scope(body + 1);
    }
  }

  void lambda(size_t first) {
    size_t at = behind(first);
    if (is(at, "<")) at = behind_angles(at);
    if (!is(at, "(") || seen_.count(first) != 0) return;
    const size_t open = at;
    for (at = behind(open); at < tokens_.size() && !is(at, "{"); ++at) {
      if (is(at, ";") || is(at, ",") || is(at, ")")) return;
      if (is(at, "(")) at = match_[at];
    }
    if (at >= tokens_.size()) return;
    seen_.insert(first);
    add("lambda", first, match_[at], open, true);
  }

  std::vector<Token> tokens_;
  std::vector<size_t> match_;  // for each bracket that opens: the one that closes it
  std::set<size_t> seen_;      // lambdas found
  std::vector<Function> found_;
};

}  // namespace

std::optional<std::vector<Function>> functions_of(const Source& source) {
  for (const Branches branches : {Branches::kAll, Branches::kFirst}) {
    Parser parser(tokens_of(source, branches));
    if (parser.parse()) return parser.take();
  }
  return std::nullopt;
}

}  // namespace carousel::layering
