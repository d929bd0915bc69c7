// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding (Sennrich et al., arXiv:1508.07909): the adjacent pair of symbols with the lowest rank is merged,
// leftmost first, until no pair has a rank. It takes O(n log n) in the length of a word, whatever its letters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "carousel/text/vocab.h"

namespace carousel::text {

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;  // written before every character of a word but the first
  std::string end_of_word_suffix;         // written after the last character of a word
  bool fuse_unk = false;                  // neighbouring unknown characters become one unk_token
  bool byte_fallback = false;             // an unknown character becomes its bytes, <0x00> to <0xFF>
  bool ignore_merges = false;             // a word that is a token is that token
  bool byte_level = false;                // words are given as bytes, tokens are spelled in the byte alphabet
};

/// Open-addressed map from a pair of 32-bit keys to one 64-bit value; no value is kAbsent.
class PairMap {
 public:
  static constexpr uint64_t kAbsent = UINT64_MAX;
  explicit PairMap(size_t count);           // room for `count` pairs
  void put(uint64_t pair, uint64_t value);  // replaces the pair's value
  uint64_t find(uint64_t pair) const {
    for (size_t i = start(pair);; i = (i + 1) & mask_) {
      if (slots_[i].pair == pair || slots_[i].pair == kAbsent) return slots_[i].value;
    }
  }

 private:
  struct Slot {
    uint64_t pair = kAbsent;
    uint64_t value = kAbsent;
  };
  size_t start(uint64_t pair) const { return static_cast<size_t>((pair * multiplier_) >> shift_); }
  void resize(size_t slots);
  std::vector<Slot> slots_;  // a power of two, at most half full
  uint64_t multiplier_ = hash_salt() | 1;
  size_t count_ = 0;
  size_t mask_ = 0;
  int shift_ = 0;
};

class Bpe {
 public:
  /// Throws Error(kInput) when unk_token is no token.
  Bpe(Vocab vocab, BpeOptions options, const std::string& where);
  /// Adds the next merge in order of rank. Throws Error(kInput) when a, b or their joined text is no token.
  void add_merge(std::string_view a, std::string_view b);
  void finish();  // must be called after the last merge

  const Vocab& vocab() const { return vocab_; }
  const BpeOptions& options() const { return options_; }
  size_t merge_count() const { return merge_count_; }

  class Scratch;  // memory of one encoding, with a cache of words
  /// Appends the ids of one word: bytes if options().byte_level, else valid UTF-8.
  void encode(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  void encode_cached(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;
  void start_symbols(std::string_view word, std::vector<int32_t>& symbols) const;
  bool add_bytes(std::string_view character, std::vector<int32_t>& symbols) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols, Scratch& scratch) const;
  bool seam(std::string_view word, size_t before, size_t at, size_t size) const;
  uint64_t merge_of(int32_t a, int32_t b) const {
    return merges_.find((static_cast<uint64_t>(static_cast<uint32_t>(a)) << 32) | static_cast<uint32_t>(b));
  }

  Vocab vocab_;
  BpeOptions options_;
  std::string where_;
  PairMap merges_;  // (left id, right id) -> rank << 32 | new id
  size_t merge_count_ = 0;
  int32_t last_made_ = kNoToken;
  PairMap crossings_;              // (last character, first character) of the two sides of some merge
  std::vector<int32_t> byte_ids_;  // [256] of the byte alphabet (byte_level) or of <0xHH>; kNoToken: missing
  bool all_bytes_ = false;
  bool bytes_merge_ = false;  // some merge has a <0xHH> or the unk_token as a part
  bool seams_ = false;        // words may be cut where no merge crosses
  int32_t unk_ = kNoToken;
};

class Bpe::Scratch {
 public:
  /// `text_size` bounds the bytes to be encoded: it sizes the cache of words.
  explicit Scratch(size_t text_size);

 private:
  friend class Bpe;
  static constexpr size_t kKey = 22;
  static constexpr size_t kIds = 10;
  struct Word {  // one cache line
    uint8_t size = 0;
    uint8_t count = 0;  // 0: empty slot
    char key[kKey];
    int32_t ids[kIds];
  };
  std::vector<Word> words_;
  std::vector<int32_t> symbols_, prev_, next_;
  std::vector<uint64_t> pairs_;  // ranks of neighbouring pairs, or the heap
  std::string spelled_;
};

}  // namespace carousel::text
