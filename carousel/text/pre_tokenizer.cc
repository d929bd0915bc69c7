// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizer's steps, each of which cuts the words of the one before.
#include "carousel/text/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/text/component.h"
#include "carousel/text/unicode.h"

namespace carousel::text {
namespace {

// In the order of Kind.
constexpr std::array<std::string_view, 7> kKinds = {"Split",           "ByteLevel", "Metaspace",  "Whitespace",
                                                    "WhitespaceSplit", "Digits",    "Punctuation"};
constexpr size_t kMaxSteps = 64;

// Radford et al. 2019, as published with GPT-2.
constexpr const char* kGpt2Words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

std::vector<std::string> behaviors() {  // in the order of Behavior
  return {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
}

template <class Kind>
Kind read_choice(Fields& fields, const char* key, const std::vector<std::string>& choices,
                 std::optional<std::string> fallback) {
  const std::string value = fields.choice(key, choices, std::move(fallback));
  return static_cast<Kind>(std::find(choices.begin(), choices.end(), value) - choices.begin());
}

}  // namespace

PreTokenizer::PreTokenizer(const Json& json, const std::string& where) {
  if (!json.is_null())
    each_component(json, where, "pretokenizers", kKinds, [this](size_t kind, Fields& fields) { add(kind, fields); });
  byte_level_ = !steps_.empty() && steps_.back().kind == Kind::kByteLevel;
  for (size_t i = 0; i + 1 < steps_.size(); ++i) {
    // A ByteLevel in the middle really rewrites; one at the end after it would write bytes of bytes.
    steps_[i].spell = steps_[i].kind == Kind::kByteLevel;
  }
}

void PreTokenizer::add(size_t kind, Fields& fields) {
  steps_.push_back(make(static_cast<Kind>(kind), fields));
  if (steps_.size() > kMaxSteps) fail(ErrorKind::kInput, "{}: more than {} steps", fields.where(), kMaxSteps);
}

PreTokenizer::Step PreTokenizer::make(Kind kind, Fields& fields) {
  Step step{};
  step.kind = kind;
  step.behavior = Behavior::kIsolated;
  switch (kind) {
    case Kind::kSplit:
      step.pattern = Pattern::from_json(fields.raw("pattern"), fields.where());
      step.behavior = read_choice<Behavior>(fields, "behavior", behaviors(), {});
      step.invert = fields.boolean("invert", false);
      break;
    case Kind::kByteLevel:
      step.prefix_space = fields.boolean("add_prefix_space", true);
      if (fields.boolean("use_regex", true)) step.pattern = Pattern::regex(kGpt2Words, fields.where());
      fields.ignore({"trim_offsets"});
      break;
    case Kind::kMetaspace: {
      step.replacement = fields.string("replacement", "\xE2\x96\x81");
      const bool one = !step.replacement.empty() && decode_utf8(step.replacement, 0).size == step.replacement.size();
      if (!one) fail(ErrorKind::kInput, "{}: \"replacement\" is not one character", fields.where());
      const bool legacy = fields.boolean("add_prefix_space", true);
      step.prepend =
          read_choice<Prepend>(fields, "prepend_scheme", {"first", "always", "never"}, legacy ? "always" : "never");
      if (!legacy && step.prepend != Prepend::kNever) {
        fail(ErrorKind::kInput, "{}: \"add_prefix_space\" is false, expected true or \"prepend_scheme\" \"never\"",
             fields.where());
      }
      step.cut = fields.boolean("split", true);
      fields.ignore({"str_rep"});
      break;
    }
    case Kind::kDigits:
      step.behavior = fields.boolean("individual_digits", false) ? Behavior::kIsolated : Behavior::kContiguous;
      break;
    case Kind::kPunctuation:
      step.behavior = read_choice<Behavior>(fields, "behavior", behaviors(), "Isolated");
      break;
    case Kind::kWhitespaceSplit:
      step.behavior = Behavior::kRemoved;
      break;
    case Kind::kWhitespace:
      break;
  }
  return step;
}

void PreTokenizer::split(std::string_view text, size_t origin, Words& words) const {
  const size_t begin = words.list.size();
  words.list.push_back(text);
  std::vector<std::string_view> pieces;
  std::vector<size_t> origins = {origin};
  for (const Step& step : steps_) {
    pieces.assign(words.list.begin() + static_cast<std::ptrdiff_t>(begin), words.list.end());
    words.list.resize(begin);
    Output out{words};
    for (size_t i = 0; i < pieces.size(); ++i) run(step, pieces[i], i < origins.size() ? origins[i] : 0, out);
    origins = std::move(out.origins);
  }
}

void PreTokenizer::Output::push(std::string_view word, size_t origin) {
  words.list.push_back(word);
  if (origin > 0) origins.push_back(origin);
}

void PreTokenizer::run(const Step& step, std::string_view piece, size_t origin, Output& out) {
  if (piece.empty()) return;
  Words& words = out.words;
  if (step.kind == Kind::kMetaspace) return metaspace(step, piece, origin, out);
  if (step.prefix_space && piece[0] != ' ') {
    piece = words.rewritten.emplace_back(" " + std::string(piece));
    origin += origin > 0 ? 1 : 0;
  }
  const auto emit = [&](std::string_view word) {
    if (word.empty()) return;
    size_t own = std::min(origin - std::min(origin, static_cast<size_t>(word.data() - piece.data())), word.size());
    if (!step.spell) return out.push(word, own);
    if (own > 0) own = to_byte_alphabet(word.substr(0, own)).size();
    out.push(words.rewritten.emplace_back(to_byte_alphabet(word)), own);
  };
  if (step.kind == Kind::kByteLevel && !step.pattern) return emit(piece);
  if (step.pattern && step.behavior == Behavior::kIsolated) {  // the usual case, without a list of spans
    size_t done = 0;
    step.pattern->each_match(piece, [&](size_t begin, size_t end) {
      emit(piece.substr(done, begin - done));
      emit(piece.substr(begin, end - begin));
      done = end;
    });
    return emit(piece.substr(done));
  }
  std::vector<Span> spans;
  spans_of(step, piece, spans);
  merge(step.behavior, spans);
  for (const Span& span : spans) emit(piece.substr(span.begin, span.end - span.begin));
}

void PreTokenizer::spans_of(const Step& step, std::string_view piece, std::vector<Span>& spans) {
  if (step.pattern) {
    size_t done = 0;
    step.pattern->each_match(piece, [&](size_t begin, size_t end) {
      if (begin > done) spans.push_back({done, begin, step.invert});
      spans.push_back({begin, end, !step.invert});
      done = end;
    });
    if (done < piece.size()) spans.push_back({done, piece.size(), step.invert});
    return;
  }
  // By character: each match is a span of its own, neighbours that do not match are one. Whitespace keeps runs of word
  // characters and runs of other visible ones.
  enum class Class : uint8_t { kOther, kWord, kMatch };
  Class last = Class::kMatch;
  for (size_t pos = 0; pos < piece.size();) {
    const Decoded next = decode_utf8(piece, pos);
    Class now = Class::kOther;
    const bool space = is_space(next.code);
    if (step.kind == Kind::kWhitespaceSplit && space) now = Class::kMatch;
    if (step.kind == Kind::kDigits && is_numeric(next.code)) now = Class::kMatch;
    if (step.kind == Kind::kPunctuation && is_punctuation(next.code)) now = Class::kMatch;
    if (step.kind == Kind::kWhitespace) now = space ? Class::kMatch : is_word(next.code) ? Class::kWord : Class::kOther;
    if (now == last && now != Class::kMatch) {
      spans.back().end = pos + next.size;
    } else if (step.kind != Kind::kWhitespace || !space) {
      spans.push_back({pos, pos + next.size, now == Class::kMatch});
    }
    last = now;
    pos += next.size;
  }
}

void PreTokenizer::merge(Behavior behavior, std::vector<Span>& spans) {
  std::vector<Span> out;
  bool last = false;
  switch (behavior) {
    case Behavior::kIsolated:
      return;
    case Behavior::kRemoved:
      spans.erase(std::remove_if(spans.begin(), spans.end(), [](const Span& s) { return s.match; }), spans.end());
      return;
    case Behavior::kContiguous:
      for (const Span& span : spans) {
        if (!out.empty() && out.back().match == span.match) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
      }
      break;
    case Behavior::kMergedWithPrevious:  // of several matches in a row only the first joins
      for (const Span& span : spans) {
        if (span.match && !last && !out.empty()) {
          out.back().end = span.end;
        } else {
          out.push_back(span);
        }
        last = span.match;
      }
      break;
    case Behavior::kMergedWithNext:
      for (size_t i = spans.size(); i-- > 0;) {
        const Span& span = spans[i];
        if (span.match && !last && !out.empty()) {
          out.back().begin = span.begin;
        } else {
          out.push_back(span);
        }
        last = span.match;
      }
      std::reverse(out.begin(), out.end());
      break;
  }
  spans = std::move(out);
}

void PreTokenizer::metaspace(const Step& step, std::string_view piece, size_t origin, Output& out) {
  std::string text;
  const bool starts = piece[0] == ' ' || piece.substr(0, step.replacement.size()) == step.replacement;
  if (!starts && (step.prepend == Prepend::kAlways || (step.prepend == Prepend::kFirst && origin > 0))) {
    text = step.replacement;
  }
  size_t new_origin = 0;
  for (size_t i = 0; i < piece.size(); ++i) {
    if (piece[i] == ' ') {
      text.append(step.replacement);
    } else {
      text.push_back(piece[i]);
    }
    if (i < origin) new_origin = text.size();
  }
  const std::string_view kept = out.words.rewritten.emplace_back(std::move(text));
  if (!step.cut) return out.push(kept, new_origin);
  std::vector<Span> spans;
  size_t done = 0;
  for (size_t at = 0; (at = kept.find(step.replacement, at)) != std::string_view::npos; at += step.replacement.size()) {
    if (at > done) spans.push_back({done, at, false});
    done = at + step.replacement.size();
    spans.push_back({at, done, true});
  }
  if (done < kept.size()) spans.push_back({done, kept.size(), false});
  merge(Behavior::kMergedWithNext, spans);
  for (const Span& span : spans) {
    const std::string_view word = kept.substr(span.begin, span.end - span.begin);
    out.push(word, std::min(new_origin - std::min(new_origin, span.begin), word.size()));
  }
}

}  // namespace carousel::text
