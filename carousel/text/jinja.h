// SPDX-License-Identifier: Apache-2.0
// Jinja's source as a tree: the statements and expressions that chat templates are written in. Constructs that cannot
// be evaluated are still parsed, so that a branch nobody takes does no harm. Read next: jinja_render.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace carousel::text {

struct JinjaNode {
  // Each kind says what `text` and `parts` hold.
  enum class Kind {
    // Statements.
    kBlock,     // parts: statements in their order
    kText,      // text: written as it stands
    kPrint,     // parts: expression
    kIf,        // parts: condition, block, condition, block, ...; an odd one at the end is the else block
    kFor,       // text: the item's name; parts: list, block
    kSet,       // parts: target (kName or kAttribute), expression
    kMacro,     // text: its name; parts: parameters (kName, or kKeyword with a default), then the block
    kNotKnown,  // text: the statement's name; evaluating it is an error
    // Expressions.
    kString,     // text: the string
    kInteger,    // number: its value
    kBoolean,    // number: 0 or 1
    kNone,       // no field
    kName,       // text: the name
    kList,       // parts: items
    kAttribute,  // text: its name; parts: object
    kItem,       // parts: object, index
    kSlice,      // parts: object, begin, end, step; kNone where absent
    kCall,       // parts: function, arguments
    kKeyword,    // text: name; parts: value. An argument of kCall
    kFilter,     // text: its name; parts: value, arguments
    kTest,       // text: its name; parts: value, arguments
    kNot,        // parts: value
    kMinus,      // parts: value
    kAnd,        // parts: left, right
    kOr,         // parts: left, right
    kChoice,     // parts: condition, value, value otherwise; without the third: undefined
    kBinary,     // text: operator; parts: left, right
  };
  Kind kind = Kind::kBlock;
  std::string text;
  int64_t number = 0;
  std::vector<JinjaNode> parts;
  int64_t line = 1;
  int depth = 1;  // levels of the tree that begins here; bounded
};

/// The tree of a template, a kBlock. Throws Error(kInput) that names the line: a statement without its end, an
/// expression that breaks off, nesting too deep.
JinjaNode parse_jinja(std::string_view source);

}  // namespace carousel::text
