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

  /// What one stream of tokens has pending, step by step.
  class Stream;

 private:
  enum class Kind : uint8_t { kByteLevel, kMetaspace, kReplace, kByteFallback, kFuse, kStrip };
  struct Step {
    Kind kind;
    std::string content;             // of kReplace; the character of kStrip and kMetaspace
    std::optional<Pattern> pattern;  // of kReplace
    int64_t start = 0;               // of kStrip: at most so many off the start of each token
    int64_t stop = 0;                // and off its end
    bool drop_first = false;         // of kMetaspace: the first token's spaces are dropped
  };
  void add(size_t kind, Fields& fields);

  std::vector<Step> steps_;
  bool joined_ = false;  // some decoder is given: tokens are joined without spaces
};

/// Tokens in, text out as soon as it is certain: never part of a character. The steps hand each other fragments of
/// tokens; Fuse makes all tokens one. The decoder must outlive the stream.
class Decoder::Stream {
 public:
  explicit Stream(const Decoder& decoder) : decoder_(decoder), pending_(decoder.steps_.size()) {}
  /// Appends to `out`; `token` must be valid UTF-8.
  void push(std::string_view token, std::string& out);
  void flush(std::string& out);  // the end: what was held back, after which the stream is as new

 private:
  struct Pending {
    std::string held;      // not yet passed on
    std::string token;     // what came so far of a token the step needs whole
    int64_t stripped = 0;  // of kStrip, in this token
    bool open = false;     // more of that token is to come
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
