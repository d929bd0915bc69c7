// SPDX-License-Identifier: Apache-2.0
// Evaluates a parsed template, within bounds.
#include "carousel/text/jinja_render.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/text/jinja_functions.h"

namespace carousel::text {
namespace {

using Node = JinjaNode;
using Kind = JinjaNode::Kind;
using Value = JinjaValue;

constexpr int64_t kMaxSteps = 1 << 15;  // nodes evaluated: more than any published template takes
constexpr size_t kCopied = 64;          // letters or pieces of a text that a step may copy
constexpr int kMaxCalls = 16;           // depth of macros that call macros
// The conversations tried have few messages: they prove nothing of a template that counts further.
constexpr int64_t kMaxLiteral = 3;

class Renderer {
 public:
  explicit Renderer(const Value::Map& variables) : scopes_{variables} {}

  JinjaRendered run(const Node& source) {
    statement(source);
    return {std::move(out_), std::move(assumed_)};
  }

 private:
  [[noreturn]] void unknown(const Node& node, const std::string& what) const {
    fail(ErrorKind::kInput, "line {}: {} is not known here", node.line, what);
  }

  void count(const Node& node) {
    if (++steps_ > kMaxSteps) unknown(node, "so long a computation");
  }
  // A copy of a value, which may be a long text, takes as many steps as it is long.
  void count_copy(const Node& node, const Value& value) {
    steps_ += static_cast<int64_t>((value.text.size() + letters(value.text)) / kCopied);
    if (steps_ > kMaxSteps) unknown(node, "so long a computation");
  }

  // Adds the line to an error that `compute` throws.
  template <class Compute>
  auto with_line(const Node& node, Compute compute) const {
    try {
      return compute();
    } catch (const Error& error) {
      const std::string what = error.what();
      if (what.starts_with("line ")) throw;
      fail(ErrorKind::kInput, "line {}: {}", node.line, what);
    }
  }

  // Statements.

  void statement(const Node& node) {
    count(node);
    switch (node.kind) {
      case Kind::kBlock:
        for (const Node& part : node.parts) statement(part);
        return;
      case Kind::kText:
        return append(out_, known_text(node.text));
      case Kind::kPrint:
        return append(out_, with_line(node, [&] { return written(evaluate(node.parts[0])); }));
      case Kind::kIf:
        return if_statement(node);
      case Kind::kFor:
        return for_statement(node);
      case Kind::kSet:
        return set_statement(node);
      case Kind::kMacro: {
        Value macro;
        macro.kind = Value::Kind::kMacro;
        macro.macro = &node;
        scopes_.back()[node.text] = macro;
        return;
      }
      default:
        unknown(node, node.text);
    }
  }

  void if_statement(const Node& node) {
    size_t i = 0;
    for (; i + 1 < node.parts.size(); i += 2) {
      if (is_true(node.parts[i])) return statement(node.parts[i + 1]);
    }
    if (i < node.parts.size()) statement(node.parts[i]);
  }

  void for_statement(const Node& node) {
    const Value list = evaluate(node.parts[0]);
    if (list.kind == Value::Kind::kUndefined) return;
    if (list.kind != Value::Kind::kList) unknown(node, "a loop over this");
    const auto size = static_cast<int64_t>(list.list->size());
    for (int64_t i = 0; i < size; ++i) {
      const auto at = [&](int64_t index) {
        return index < 0 || index >= size ? Value() : (*list.list)[static_cast<size_t>(index)];
      };
      Value::Map loop{{"index", Value::integer(i + 1)},
                      {"index0", Value::integer(i)},
                      {"revindex", Value::integer(size - i)},
                      {"revindex0", Value::integer(size - i - 1)},
                      {"first", Value::boolean(i == 0)},
                      {"last", Value::boolean(i + 1 == size)},
                      {"length", Value::integer(size)},
                      {"previtem", at(i - 1)},
                      {"nextitem", at(i + 1)}};
      scopes_.push_back({{node.text, at(i)}, {"loop", Value::of(std::move(loop))}});
      statement(node.parts[1]);
      scopes_.pop_back();
    }
  }

  void set_statement(const Node& node) {
    Value value = evaluate(node.parts[1]);
    const Node& target = node.parts[0];
    if (target.kind == Kind::kName) {
      scopes_.back()[target.text] = std::move(value);
      return;
    }
    const Value object = find(target.parts[0].text);
    if (!namespaces_.contains(object.map.get())) unknown(node, "a set on what is no namespace");
    (*object.map)[target.text] = std::move(value);
  }

  // Expressions.

  bool is_true(const Node& node) {
    return with_line(node, [&] { return truth(evaluate(node)); });
  }

  Value find(const std::string& name) const {
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->find(name);
      if (found != scope->end()) return found->second;
    }
    return {};
  }

  // Jinja and transformers define these names; a template that looks at them is not evaluated exactly here.
  static bool is_global(const std::string& name) {
    static const std::set<std::string> kGlobals = {"cycler",          "dict",  "joiner",      "lipsum", "namespace",
                                                   "raise_exception", "range", "strftime_now"};
    return kGlobals.contains(name);
  }

  Value evaluate(const Node& node) {
    count(node);
    switch (node.kind) {
      case Kind::kString:
        return Value::of(known_text(node.text));
      case Kind::kInteger:
        if (node.number > kMaxLiteral) unknown(node, fmt::format("the number {}", node.number));
        return Value::integer(node.number);
      case Kind::kBoolean:
        return Value::boolean(node.number != 0);
      case Kind::kNone:
        return Value::none();
      case Kind::kName: {
        Value value = find(node.text);
        if (value.kind == Value::Kind::kUndefined && is_global(node.text)) unknown(node, "\"" + node.text + "\"");
        count_copy(node, value);
        return value;
      }
      case Kind::kNot:
        return Value::boolean(!is_true(node.parts[0]));
      case Kind::kAnd:
      case Kind::kOr: {
        Value left = evaluate(node.parts[0]);
        const bool yes = with_line(node, [&] { return truth(left); });
        return yes == (node.kind == Kind::kOr) ? left : evaluate(node.parts[1]);
      }
      case Kind::kChoice:
        if (is_true(node.parts[0])) return evaluate(node.parts[1]);
        return node.parts.size() > 2 ? evaluate(node.parts[2]) : Value();
      case Kind::kCall:
        return call(node);
      case Kind::kNotKnown:
        unknown(node, node.text);
      default:
        return with_line(node, [&] { return computed(node, values(node.parts)); });
    }
  }

  JinjaValues values(const std::vector<Node>& nodes) {
    JinjaValues out;
    for (const Node& node : nodes) {
      if (node.kind == Kind::kKeyword) unknown(node, "the argument \"" + node.text + "\"");
      out.push_back(evaluate(node));
    }
    return out;
  }

  // Expressions whose value depends on the values of their parts alone.
  Value computed(const Node& node, const JinjaValues& parts) {
    switch (node.kind) {
      case Kind::kList:
        return Value::of(parts);
      case Kind::kAttribute: {
        Value value = item(parts[0], Value::of(known_text(node.text)));
        const bool of_loop = node.parts[0].kind == Kind::kName && node.parts[0].text == "loop";
        if (of_loop && value.kind == Value::Kind::kUndefined && node.text != "previtem" && node.text != "nextitem") {
          unknown(node, "\"loop." + node.text + "\"");
        }
        return value;
      }
      case Kind::kItem:
        return item(parts[0], parts[1]);
      case Kind::kSlice:
        return slice(parts[0], {parts.begin() + 1, parts.end()});
      case Kind::kMinus:
        return binary("-", Value::integer(0), parts[0]);
      case Kind::kFilter:
        return apply_filter(node.text, parts);
      case Kind::kTest:
        return Value::boolean(apply_test(node.text, parts));
      case Kind::kBinary:
        if ((node.text == "in" || node.text == "not in") && assume_absent(parts[1], parts[0])) {
          return Value::boolean(node.text == "not in");
        }
        return binary(node.text, parts[0], parts[1]);
      default:
        unknown(node, "such an expression");
    }
  }

  // Whether `text` is one stretch of unknown letters; it is then assumed not to hold `wanted`.
  bool assume_absent(const Value& text, const Value& wanted) {
    const bool one = text.kind == Value::Kind::kText && text.text.size() == 1 && text.text[0].unknown;
    if (!one || wanted.kind != Value::Kind::kText || wanted.text.empty() || !is_known(wanted.text)) return false;
    if (text.text[0].changed) return false;
    const JinjaAssumption assumption{text.text[0].text, wanted.text[0].text};
    if (std::find(assumed_.begin(), assumed_.end(), assumption) == assumed_.end()) assumed_.push_back(assumption);
    return true;
  }

  Value call(const Node& node) {
    const Node& function = node.parts[0];
    const std::vector<Node> arguments(node.parts.begin() + 1, node.parts.end());
    if (function.kind == Kind::kAttribute) {
      const Value object = evaluate(function.parts[0]);
      const JinjaValues given = values(arguments);
      const bool seeks = function.text == "startswith" || function.text == "endswith";
      if (seeks && given.size() == 1 && assume_absent(object, given[0])) return Value::boolean(false);
      return with_line(node, [&] { return call_method(function.text, object, given); });
    }
    if (function.kind != Kind::kName) unknown(node, "such a call");
    const Value found = find(function.text);
    if (found.kind == Value::Kind::kMacro) return call_macro(*found.macro, node, arguments);
    if (function.text == "raise_exception" && arguments.size() == 1) {
      const std::string said = spell(written(evaluate(arguments[0])));
      fail(ErrorKind::kInput, "line {}: it refuses such a conversation: \"{}\"", node.line, said);
    }
    if (function.text != "namespace") unknown(node, "the function \"" + function.text + "\"");
    Value::Map fields;
    for (const Node& argument : arguments) {
      if (argument.kind != Kind::kKeyword) unknown(argument, "a namespace of this");
      fields[argument.text] = evaluate(argument.parts[0]);
    }
    Value made = Value::of(std::move(fields));
    namespaces_.insert(made.map.get());
    kept_.push_back(made);
    return made;
  }

  // A macro sees its arguments and the template's own variables; its value is the text that it writes.
  Value call_macro(const Node& macro, const Node& node, const std::vector<Node>& arguments) {
    if (++calls_ > kMaxCalls) unknown(node, "such deep nesting of macros");
    const JinjaValues given = values(arguments);
    const size_t parameters = macro.parts.size() - 1;
    if (given.size() > parameters) unknown(node, "a call with so many arguments");
    for (const auto& [name, value] : scopes_.front()) count_copy(node, value);
    std::vector<Value::Map> inner{scopes_.front(), {}};
    std::swap(scopes_, inner);
    for (size_t i = 0; i < parameters; ++i) {  // a default may name the parameters before it
      const Node& parameter = macro.parts[i];
      const bool has_default = i >= given.size() && parameter.kind == Kind::kKeyword;
      Value value = i < given.size() ? given[i] : has_default ? evaluate(parameter.parts[0]) : Value();
      scopes_.back()[parameter.text] = std::move(value);
    }
    JinjaText outside = std::exchange(out_, {});
    statement(macro.parts.back());
    std::swap(scopes_, inner);
    --calls_;
    return Value::of(std::exchange(out_, std::move(outside)));
  }

  std::vector<Value::Map> scopes_;  // variables, the innermost scope last
  JinjaText out_;
  std::vector<JinjaAssumption> assumed_;
  std::vector<Value> kept_;                 // every namespace, so that no address is used twice
  std::set<const Value::Map*> namespaces_;  // the maps of kept_
  int64_t steps_ = 0;
  int calls_ = 0;
};

}  // namespace

JinjaRendered render_jinja(const JinjaNode& source, const JinjaValue::Map& variables) {
  return Renderer(variables).run(source);
}

}  // namespace carousel::text
