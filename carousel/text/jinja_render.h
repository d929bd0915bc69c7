// SPDX-License-Identifier: Apache-2.0
// Evaluates a template with the values of transformers' apply_chat_template. It knows the constructs that published
// chat templates apply to a plain conversation, and refuses the rest (dates, JSON, arithmetic on unknown letters): a
// result is exact, or there is none.
#pragma once

#include <string>
#include <vector>

#include "carousel/text/jinja.h"
#include "carousel/text/jinja_value.h"

namespace carousel::text {

/// The template searched unknown letters for `text`, and the evaluation assumed that it is not there.
struct JinjaAssumption {
  std::string of;    // the name of the unknown piece
  std::string text;  // the text that the piece is assumed not to hold
  bool operator==(const JinjaAssumption&) const = default;
};

struct JinjaRendered {
  JinjaText text;
  std::vector<JinjaAssumption> assumed;
};

/// Throws Error(kInput) that names the line and the unknown construct, or the template's own refusal.
JinjaRendered render_jinja(const JinjaNode& source, const JinjaValue::Map& variables);

}  // namespace carousel::text
