// SPDX-License-Identifier: Apache-2.0
// What a template writes, with the values of transformers' apply_chat_template. It evaluates what published chat
// templates do to a plain conversation, and refuses the rest (dates, JSON, arithmetic on unknown letters): a result is
// exact, or there is none.
#pragma once

#include <string>
#include <vector>

#include "carousel/text/jinja.h"
#include "carousel/text/jinja_value.h"

namespace carousel::text {

/// The template looked for `text` in unknown letters and was told that it is not there.
struct JinjaAssumption {
  std::string of;    // the unknown piece's name
  std::string text;  // what it is assumed not to hold
  bool operator==(const JinjaAssumption&) const = default;
};

struct JinjaRendered {
  JinjaText text;
  std::vector<JinjaAssumption> assumed;
};

/// Throws Error(kInput) that names the line and what is not known, or what the template itself refuses.
JinjaRendered render_jinja(const JinjaNode& source, const JinjaValue::Map& variables);

}  // namespace carousel::text
