// SPDX-License-Identifier: Apache-2.0
// Text <-> token ids, as a Hugging Face tokenizer.json with a BPE model describes it: the same ids and the same decoded
// text as the reference library's. Read next: tokenizer.cc for the order of the stages, bpe.h for the model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace carousel::text {

struct TokenizerSummary {
  std::string kind;        // "byte-level BPE", "BPE with byte fallback", "BPE", "bytes"
  int64_t vocab_size = 0;  // largest id + 1
  int64_t tokens = 0;      // ids that have a token
  int64_t merges = 0;
  int64_t added = 0;    // added tokens, special ones included
  int64_t special = 0;  // special tokens among them
};

/// An immutable tokenizer. Copies share it; every member may be called from any thread.
class Tokenizer {
 public:
  /// Reads a tokenizer.json. Throws Error(kIo), or Error(kInput) naming the path and the part that cannot be used.
  static Tokenizer from_file(const std::string& path);
  /// The same from memory; `where` names the source in messages.
  static Tokenizer from_json(std::string_view json, const std::string& where);
  /// 256 ids, one per byte: for models without a tokenizer.
  static Tokenizer bytes();

  /// `add_special`: adds the tokens that the post-processor puts around a text (bos, eos). `parse_special`: special
  /// tokens that are spelled out in the text become their ids; otherwise they are text like any other.
  /// Invalid UTF-8: byte-level tokenizers keep its bytes, others read each invalid sequence as U+FFFD.
  /// Throws Error(kInput) only where a limit against hostile tokenizers is met.
  std::vector<int32_t> encode(std::string_view text, bool add_special = true, bool parse_special = true) const;

  /// Encodes a text that follows a control token: no token is put around it and no space before it. Neither special
  /// tokens nor tokens spelled like control tokens are read from it, so its author cannot forge them.
  std::vector<int32_t> encode_inner(std::string_view text) const;

  /// Always valid UTF-8: bytes that make no character become U+FFFD. Ids without a token are skipped.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  /// decode(), but a byte-level tokenizer gives the exact bytes.
  std::string decode_bytes(std::span<const int32_t> ids, bool skip_special = false) const;

  int64_t vocab_size() const;                                  // largest id + 1
  std::optional<int32_t> id_of(std::string_view token) const;  // the id of a token as the file spells it
  std::string token_text(int64_t id) const;                    // as the file spells it; empty for an id without a token
  bool is_special(int64_t id) const;
  TokenizerSummary summary() const;

 private:
  friend class StreamDecoder;
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

/// Decodes ids one by one. Everything returned, joined, is what decode() gives for all ids; each piece is ready to be
/// printed: never a part of a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(Tokenizer tokenizer, bool skip_special = false);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  std::string push(int32_t id);
  std::string flush();  // ends the text; the next push begins a new one
  /// Pushes ids whose text is known to whom the stream gives the rest: what it still holds of it is then left out.
  void follow(std::span<const int32_t> ids);

 private:
  struct Pending;
  std::unique_ptr<Pending> pending_;
};

}  // namespace carousel::text
