// SPDX-License-Identifier: Apache-2.0
// Walks a component of a tokenizer.json, or a Sequence of components.
#include "carousel/text/component.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "carousel/core/error.h"

namespace carousel::text {
namespace {

constexpr int kMaxDepth = 8;

struct Walk {
  const char* list;
  std::span<const std::string_view> kinds;
  const std::function<void(size_t, Fields&)>& add;
};

void visit(const Walk& walk, const Json& json, const std::string& where, int depth) {
  Fields fields(json, where);
  const std::string type = fields.string("type");
  if (type == "Sequence") {
    const Json* list = fields.raw(walk.list);
    if (list == nullptr || !list->is_array()) fail(ErrorKind::kInput, "{}: \"{}\" is not a list", where, walk.list);
    if (depth > kMaxDepth) fail(ErrorKind::kInput, "{}: sequences nest deeper than {} levels", where, kMaxDepth);
    for (size_t i = 0; i < list->size(); ++i) visit(walk, (*list)[i], fmt::format("{}[{}]", where, i), depth + 1);
    return fields.finish();
  }
  const auto it = std::find(walk.kinds.begin(), walk.kinds.end(), type);
  if (it == walk.kinds.end()) {
    fail(ErrorKind::kInput, "{}: type \"{}\" is not supported; supported: Sequence, {}", where, type.substr(0, 60),
         fmt::join(walk.kinds, ", "));
  }
  walk.add(static_cast<size_t>(it - walk.kinds.begin()), fields);
  fields.finish();
}

}  // namespace

void each_component(const Json& json, const std::string& where, const char* list,
                    std::span<const std::string_view> kinds, const std::function<void(size_t, Fields&)>& add) {
  visit({list, kinds, add}, json, where, 0);
}

}  // namespace carousel::text
