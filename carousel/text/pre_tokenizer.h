// SPDX-License-Identifier: Apache-2.0
// The "pre_tokenizer" of a tokenizer.json: cuts text into the words that BPE then works on, one by one.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/text/pattern.h"

namespace carousel::text {

/// Words, in order. They are views of the given text, or of `rewritten` where a step changed it.
struct Words {
  std::vector<std::string_view> list;
  std::deque<std::string> rewritten;
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // one word
  /// From the file's value; null keeps text whole. Throws Error(kInput), unsupported types by name.
  PreTokenizer(const Json& json, const std::string& where);

  /// True when the last step is ByteLevel: its rewriting into the byte alphabet is then left out, and the model takes
  /// the words as bytes.
  bool byte_level() const { return byte_level_; }
  /// Cuts `text` (valid UTF-8). `origin` is the number of bytes at its beginning that stand for the first character of
  /// the whole input; 0 when that character is elsewhere, or a normalizer removed it.
  void split(std::string_view text, size_t origin, Words& words) const;

 private:
  enum class Kind : uint8_t {
    kSplit,
    kByteLevel,
    kMetaspace,
    kWhitespace,
    kWhitespaceSplit,
    kDigits,
    kPunctuation,
  };
  enum class Behavior : uint8_t { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend : uint8_t { kFirst, kAlways, kNever };
  struct Step {
    Kind kind;
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    std::optional<Pattern> pattern;  // kSplit; kByteLevel with use_regex
    bool prefix_space = false;       // kByteLevel
    bool spell = false;              // kByteLevel before another step: write bytes in their alphabet
    std::string replacement;         // kMetaspace
    Prepend prepend = Prepend::kAlways;
    bool cut = true;
  };
  struct Span {
    size_t begin, end;
    bool match;
  };
  // The words that a step has made. Only words at the beginning have an origin other than 0, so only those are listed.
  struct Output {
    Words& words;
    std::vector<size_t> origins{};
    void push(std::string_view word, size_t origin);
  };
  void add(size_t kind, Fields& fields);
  static Step make(Kind kind, Fields& fields);
  static void run(const Step& step, std::string_view piece, size_t origin, Output& out);
  static void spans_of(const Step& step, std::string_view piece, std::vector<Span>& spans);
  static void merge(Behavior behavior, std::vector<Span>& spans);
  static void metaspace(const Step& step, std::string_view piece, size_t origin, Output& out);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace carousel::text
