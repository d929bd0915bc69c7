// SPDX-License-Identifier: Apache-2.0
// The components of a tokenizer.json: one object with a "type", or a Sequence of them, nested a few levels.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "carousel/core/json.h"

namespace carousel::text {

/// Calls add(kind, fields) for every component in order, `kind` being the place of its type in `kinds`; keys that add
/// did not read are refused. `list` is the member that holds a Sequence's components ("decoders").
/// Throws Error(kInput) naming a type that is not supported, and the supported ones.
void each_component(const Json& json, const std::string& where, const char* list,
                    std::span<const std::string_view> kinds, const std::function<void(size_t, Fields&)>& add);

}  // namespace carousel::text
