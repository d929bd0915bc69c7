// SPDX-License-Identifier: Apache-2.0
// What expressions do with values that they have in hand: operators, tests, filters and methods. A part of
// jinja_render.cc. Every function throws Error(kInput), without a line, for what it does not know.
#pragma once

#include <string>
#include <vector>

#include "carousel/text/jinja_value.h"

namespace carousel::text {

using JinjaValues = std::vector<JinjaValue>;

bool truth(const JinjaValue& value);
/// As {{ value }} writes it.
JinjaText written(const JinjaValue& value);
JinjaValue binary(const std::string& op, const JinjaValue& left, const JinjaValue& right);
JinjaValue item(const JinjaValue& object, const JinjaValue& index);
JinjaValue slice(const JinjaValue& object, const JinjaValues& bounds);        // three: begin, end, step
JinjaValue apply_filter(const std::string& name, const JinjaValues& values);  // the value, then arguments
bool apply_test(const std::string& name, const JinjaValues& values);
/// Of a text or a map.
JinjaValue call_method(const std::string& name, const JinjaValue& object, const JinjaValues& arguments);

}  // namespace carousel::text
