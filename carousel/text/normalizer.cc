// SPDX-License-Identifier: Apache-2.0
// The normalizer's steps, one after the other over the whole text.
#include "carousel/text/normalizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "carousel/core/error.h"
#include "carousel/text/component.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

// In the order of Kind.
constexpr std::array<std::string_view, 9> kKinds = {"NFC",     "NFD",     "NFKC",  "NFKD",        "Lowercase",
                                                    "Prepend", "Replace", "Strip", "StripAccents"};
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxGrowth = 64;  // times the text, plus
constexpr size_t kMaxExtra = size_t{16} << 20;

template <class Change>
std::string map_characters(std::string_view text, size_t* origin, Change&& change) {
  std::string out;
  out.reserve(text.size());
  size_t new_origin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Decoded next = decode_utf8(text, pos);
    change(out, next.code);
    pos += next.size;
    if (origin != nullptr && pos <= *origin) new_origin = out.size();
  }
  if (origin != nullptr) *origin = new_origin;
  return out;
}

std::string normal_form(std::string_view text, NormalForm form, size_t* origin) {
  std::string out = normalize(text, form);
  if (origin == nullptr || *origin == 0) return out;
  // What the first characters become alone; the last of them may be one with what follows, as e and an accent are.
  const std::string alone = normalize(text.substr(0, *origin), form);
  size_t size = 0;
  for (size_t pos = 0; pos < alone.size() && size < out.size(); pos += decode_utf8(alone, pos).size) {
    size += decode_utf8(out, size).size;
  }
  *origin = size;
  return out;
}

std::string_view strip(std::string_view text, bool left, bool right) {
  while (left && !text.empty()) {
    const Decoded first = decode_utf8(text, 0);
    if (!is_space(first.code)) break;
    text.remove_prefix(first.size);
  }
  while (right && !text.empty()) {
    size_t pos = text.size() - 1;
    while (pos > 0 && (static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80) --pos;
    if (!is_space(decode_utf8(text, pos).code)) break;
    text = text.substr(0, pos);
  }
  return text;
}

}  // namespace

Normalizer::Normalizer(const Json& json, const std::string& where) {
  if (!json.is_null())
    each_component(json, where, "normalizers", kKinds, [this](size_t kind, Fields& fields) { add(kind, fields); });
}

void Normalizer::add(size_t kind, Fields& fields) {
  Step step{static_cast<Kind>(kind), "", {}, false, false};
  if (step.kind == Kind::kPrepend) step.text = fields.string("prepend");
  if (step.kind == Kind::kReplace) {
    step.pattern = Pattern::from_json(fields.raw("pattern"), fields.where());
    step.text = fields.string("content");
  }
  if (step.kind == Kind::kStrip) {
    step.left = fields.boolean("strip_left", true);
    step.right = fields.boolean("strip_right", true);
  }
  steps_.push_back(std::move(step));
  if (steps_.size() > kMaxSteps) fail(ErrorKind::kInput, "{}: more than {} steps", fields.where(), kMaxSteps);
}

std::string Normalizer::apply(const Step& step, std::string_view text, size_t max_bytes, size_t* origin) {
  switch (step.kind) {
    case Kind::kNfc:
      return normal_form(text, NormalForm::kNfc, origin);
    case Kind::kNfd:
      return normal_form(text, NormalForm::kNfd, origin);
    case Kind::kNfkc:
      return normal_form(text, NormalForm::kNfkc, origin);
    case Kind::kNfkd:
      return normal_form(text, NormalForm::kNfkd, origin);
    case Kind::kLowercase:
      return map_characters(text, origin, append_lower);
    case Kind::kPrepend:
      if (text.empty()) return {};
      if (origin != nullptr && *origin > 0) *origin += step.text.size();
      return step.text + std::string(text);
    case Kind::kReplace:
      return step.pattern->replace(text, step.text, max_bytes, origin);
    case Kind::kStrip: {
      const std::string_view kept = strip(text, step.left, step.right);
      const size_t cut = kept.empty() ? text.size() : static_cast<size_t>(kept.data() - text.data());
      if (origin != nullptr) *origin -= std::min(*origin, cut);
      return std::string(kept);
    }
    case Kind::kStripAccents:
      return map_characters(text, origin, [](std::string& out, char32_t code) {
        if (!is_mark(code)) append_utf8(out, code);
      });
  }
  return std::string(text);
}

std::string Normalizer::apply(std::string_view text, size_t* origin) const {
  const size_t max_bytes = text.size() * kMaxGrowth + kMaxExtra;
  std::string out(text);
  for (const Step& step : steps_) {
    out = apply(step, out, max_bytes, origin);
    if (out.size() > max_bytes) {
      fail(ErrorKind::kInput, "normalizer: {} bytes of text became {}, expected at most {}", text.size(), out.size(),
           max_bytes);
    }
  }
  return out;
}

}  // namespace carousel::text
