// SPDX-License-Identifier: Apache-2.0
// YAML configs, read as the JSON value of the same config.
#pragma once

#include <string>
#include <string_view>

#include "carousel/core/json.h"

namespace carousel::formats {

/// Parses one YAML document by the core schema: plain scalars are null, true, false, whole numbers, numbers, or text
/// (1e-5 is a number; yes and no are text). `where` names the source in messages.
/// Throws Error(kInput): syntax (with line and column), too deep, too large, a key twice in one map, a key that is not
/// a scalar, anchors, aliases, merge keys and tags (a few bytes of them stand for gigabytes), a second document.
Json parse_yaml(std::string_view text, const std::string& where, const JsonLimits& limits = {size_t{1} << 20, 64});

}  // namespace carousel::formats
