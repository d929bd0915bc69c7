// SPDX-License-Identifier: Apache-2.0
// The decoder's steps, each a small machine that holds back text until it is certain.
#include "carousel/text/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/text/component.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

// In the order of Kind.
constexpr std::array<std::string_view, 6> kKinds = {"ByteLevel",    "Metaspace", "Replace",
                                                    "ByteFallback", "Fuse",      "Strip"};
constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxToken = size_t{64} << 20;  // bytes a Replace may make of one token

std::string one_character(Fields& fields, const char* key, std::optional<std::string> fallback) {
  const std::string text = fields.string(key, std::move(fallback));
  if (text.empty() || decode_utf8(text, 0).size != text.size()) {
    fail(ErrorKind::kInput, "{}: \"{}\" is \"{}\", expected one character", fields.where(), key, text.substr(0, 60));
  }
  return text;
}

int byte_of_name(std::string_view token) {  // "<0x0A>" -> 10; -1: no such name
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  return error == std::errc() && end == token.data() + 5 && value >= 0 ? value : -1;
}

}  // namespace

Decoder::Decoder(const Json& json, const std::string& where) {
  if (json.is_null()) return;
  joined_ = true;
  each_component(json, where, "decoders", kKinds, [this](size_t kind, Fields& fields) { add(kind, fields); });
}

void Decoder::add(size_t kind, Fields& fields) {
  Step step{};
  step.kind = static_cast<Kind>(kind);
  if (step.kind == Kind::kByteLevel) fields.ignore({"add_prefix_space", "trim_offsets", "use_regex"});
  if (step.kind == Kind::kMetaspace) {
    step.content = one_character(fields, "replacement", "\xE2\x96\x81");
    const bool legacy = fields.boolean("add_prefix_space", true);
    step.drop_first =
        fields.choice("prepend_scheme", {"first", "always", "never"}, legacy ? "always" : "never") != "never";
    fields.ignore({"split", "str_rep"});
  }
  if (step.kind == Kind::kReplace) {
    step.pattern = Pattern::from_json(fields.raw("pattern"), fields.where());
    step.content = fields.string("content");
  }
  if (step.kind == Kind::kStrip) {
    step.content = one_character(fields, "content", {});
    step.start = fields.integer("start", 0, 1000);
    step.stop = fields.integer("stop", 0, 1000);
  }
  steps_.push_back(std::move(step));
  if (steps_.size() > kMaxSteps) fail(ErrorKind::kInput, "{}: more than {} steps", fields.where(), kMaxSteps);
}

void Decoder::Stream::push(std::string_view token, std::string& out) {
  if (!decoder_.joined_ && !first_) out.push_back(' ');
  first_ = false;
  feed(0, token, true, out);
}

void Decoder::Stream::flush(std::string& out) {
  finish(0, out);
  pending_.assign(pending_.size(), Pending());
  first_ = true;
}

void Decoder::Stream::feed(size_t step, std::string_view fragment, bool ends, std::string& out) {
  if (step == decoder_.steps_.size()) {
    out.append(fragment);
    return;
  }
  const Step& how = decoder_.steps_[step];
  Pending& pending = pending_[step];
  if (how.kind == Kind::kFuse) return feed(step + 1, fragment, false, out);
  if (how.kind == Kind::kMetaspace) return feed_metaspace(step, fragment, ends, out);
  if (how.kind == Kind::kStrip) return feed_strip(step, fragment, ends, out);
  // The others need the token whole.
  std::string whole;
  if (!ends || pending.open) {
    pending.token.append(fragment);
    pending.open = !ends;
    if (!ends) return;
    whole = std::exchange(pending.token, std::string());
    fragment = whole;
  }
  if (how.kind == Kind::kByteLevel) return feed_bytes(step, fragment, out);
  if (how.kind == Kind::kByteFallback) return feed_fallback(step, fragment, out);
  feed(step + 1, how.pattern->replace(fragment, how.content, kMaxToken), true, out);
}

void Decoder::Stream::finish(size_t step, std::string& out) {
  if (step == decoder_.steps_.size()) return;
  const Kind kind = decoder_.steps_[step].kind;
  Pending& pending = pending_[step];
  if (kind == Kind::kByteLevel) {
    // Everything was one token to the next steps; this is its end.
    const std::string rest = replace_invalid(pending.held);
    pending.held.clear();
    feed(step + 1, rest, true, out);
  } else if (kind == Kind::kFuse) {
    feed(step + 1, "", true, out);
  } else if (kind == Kind::kByteFallback) {
    flush_fallback(step, out);
  }
  finish(step + 1, out);
}

void Decoder::Stream::feed_bytes(size_t step, std::string_view token, std::string& out) {
  std::string& held = pending_[step].held;
  append_from_byte_alphabet(held, token);
  std::string text;
  std::string_view rest = held;
  while (!rest.empty()) {
    const size_t valid = valid_prefix(rest);
    text.append(rest.substr(0, valid));
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Decoded bad = decode_utf8(rest, 0);
    if (bad.partial) break;
    text.append(kReplacement);
    rest.remove_prefix(bad.size);
  }
  held.erase(0, held.size() - rest.size());
  feed(step + 1, text, false, out);
}

void Decoder::Stream::feed_fallback(size_t step, std::string_view token, std::string& out) {
  if (const int byte = byte_of_name(token); byte >= 0) {
    pending_[step].held.push_back(static_cast<char>(byte));
    return;
  }
  flush_fallback(step, out);
  feed(step + 1, token, true, out);
}

// A run of byte tokens is one token if it is valid as a whole, else as many U+FFFD as it has bytes: so the reference
// library does, and what follows can make a run invalid. Hence it is held until it ends.
void Decoder::Stream::flush_fallback(size_t step, std::string& out) {
  const std::string bytes = std::exchange(pending_[step].held, std::string());
  if (bytes.empty()) return;
  if (valid_prefix(bytes) == bytes.size()) return feed(step + 1, bytes, true, out);
  for (size_t i = 0; i < bytes.size(); ++i) feed(step + 1, kReplacement, true, out);
}

void Decoder::Stream::feed_metaspace(size_t step, std::string_view fragment, bool ends, std::string& out) {
  const Step& how = decoder_.steps_[step];
  Pending& pending = pending_[step];
  std::string text;
  size_t done = 0;
  for (size_t at = 0; (at = fragment.find(how.content, at)) != std::string_view::npos; at += how.content.size()) {
    text.append(fragment.substr(done, at - done)).append(pending.first && how.drop_first ? "" : " ");
    done = at + how.content.size();
  }
  text.append(fragment.substr(done));
  if (ends) pending.first = false;
  feed(step + 1, text, ends, out);
}

void Decoder::Stream::feed_strip(size_t step, std::string_view fragment, bool ends, std::string& out) {
  const Step& how = decoder_.steps_[step];
  Pending& pending = pending_[step];
  const std::string_view mark = how.content;
  while (pending.stripping && !fragment.empty()) {
    pending.stripping = pending.stripped < how.start && fragment.substr(0, mark.size()) == mark;
    if (!pending.stripping) break;
    ++pending.stripped;
    fragment.remove_prefix(mark.size());
  }
  pending.held.append(fragment);
  // The last `stop` marks of the text so far may be the last of the token.
  size_t keep = pending.held.size();
  for (int64_t i = 0; i < how.stop && keep >= mark.size(); ++i) {
    if (std::string_view(pending.held).substr(keep - mark.size(), mark.size()) != mark) break;
    keep -= mark.size();
  }
  const std::string text = pending.held.substr(0, keep);
  pending.held.erase(0, ends ? pending.held.size() : keep);
  if (ends) {
    pending.stripped = 0;
    pending.stripping = true;
  }
  feed(step + 1, text, ends, out);
}

}  // namespace carousel::text
