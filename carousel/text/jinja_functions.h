// SPDX-License-Identifier: Apache-2.0
// Operators, tests, filters and methods on values. They are a part of jinja_render.cc. Every function throws
// Error(kInput), without a line, for an operation that it does not know.
#pragma once

#include <string>
#include <vector>

#include "carousel/text/jinja_value.h"

namespace carousel::text {

using JinjaValues = std::vector<JinjaValue>;

bool truth(const JinjaValue& value);
/// The text that {{ value }} writes.
JinjaText written(const JinjaValue& value);
JinjaValue binary(const std::string& op, const JinjaValue& left, const JinjaValue& right);
JinjaValue item(const JinjaValue& object, const JinjaValue& index);
JinjaValue slice(const JinjaValue& object, const JinjaValues& bounds);        // three: begin, end, step
JinjaValue apply_filter(const std::string& name, const JinjaValues& values);  // the value, then arguments
bool apply_test(const std::string& name, const JinjaValues& values);
/// Calls a method of a text or a map.
JinjaValue call_method(const std::string& name, const JinjaValue& object, const JinjaValues& arguments);

}  // namespace carousel::text
