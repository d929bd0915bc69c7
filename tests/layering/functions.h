// SPDX-License-Identifier: Apache-2.0
// The functions of a source, found without a compiler: those of namespaces, of classes, of classes inside functions,
// lambdas and pointers to functions, declared or defined.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tests/layering/source.h"

namespace carousel::layering {

struct Function {
  std::string name;    // without its class; "lambda"
  size_t first, last;  // lines, counted from 1, without a template's head; up to the closing brace of a definition
  int parameters;
  bool defined;
};

/// None if the braces of the text do not match, whichever branches of #if are read.
std::optional<std::vector<Function>> functions_of(const Source& source);

}  // namespace carousel::layering
