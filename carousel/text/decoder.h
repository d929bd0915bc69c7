// SPDX-License-Identifier: Apache-2.0
// The "decoder" of a tokenizer.json: from token strings back to text, fed one token at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/text/pattern.h"

namespace carousel::text {

class Decoder {
 public:
  Decoder() = default;  // tokens joined by spaces, as the reference library does without a decoder
  /// From the file's value. Throws Error(kInput), unsupported types by name.
  Decoder(const Json& json, const std::string& where);

  /// True when decoding is the byte alphabet and nothing else.
  bool byte_level() const { return steps_.size() == 1 && steps_[0].kind == Kind::kByteLevel; }

  /// One stream of tokens, with the text that each step holds back.
  class Stream;

 private:
  enum class Kind : uint8_t { kByteLevel, kMetaspace, kReplace, kByteFallback, kFuse, kStrip };
  struct Step {
    Kind kind;
    std::string content;             // kReplace: the new text; kStrip and kMetaspace: the character
    std::optional<Pattern> pattern;  // kReplace: the text to find
    int64_t start = 0;               // kStrip: at most so many characters are taken off the start of each token
    int64_t stop = 0;                // kStrip: at most so many are taken off its end
    bool drop_first = false;         // kMetaspace: the first token's spaces are dropped
  };
  void add(size_t kind, Fields& fields);

  std::vector<Step> steps_;
  bool joined_ = false;  // some decoder is given: tokens are joined without spaces
};

/// Turns tokens into text as soon as the text is certain; it never gives a part of a character. The steps pass each
/// other fragments of tokens; Fuse makes all tokens one. The decoder must outlive the stream.
class Decoder::Stream {
 public:
  explicit Stream(const Decoder& decoder) : decoder_(decoder), pending_(decoder.steps_.size()) {}
  /// Appends to `out`; `token` must be valid UTF-8.
  void push(std::string_view token, std::string& out);
  void flush(std::string& out);  // ends the text: appends what was held back; the stream is then as new

 private:
  struct Pending {
    std::string held;      // text not yet passed on
    std::string token;     // the beginning of a token that the step needs whole
    int64_t stripped = 0;  // kStrip: characters taken off this token's start
    bool open = false;     // the token has not ended
    bool stripping = true;
    bool first = true;
  };
  void feed(size_t step, std::string_view fragment, bool ends, std::string& out);
  void finish(size_t step, std::string& out);
  void feed_bytes(size_t step, std::string_view token, std::string& out);
  void feed_fallback(size_t step, std::string_view token, std::string& out);
  void flush_fallback(size_t step, std::string& out);
  void feed_metaspace(size_t step, std::string_view fragment, bool ends, std::string& out);
  void feed_strip(size_t step, std::string_view fragment, bool ends, std::string& out);

  const Decoder& decoder_;
  std::vector<Pending> pending_;
  bool first_ = true;
};

}  // namespace carousel::text
