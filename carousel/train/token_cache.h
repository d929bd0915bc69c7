// SPDX-License-Identifier: Apache-2.0
// Token caches: the documents of one file as ids, written once and mapped ever after, so data may exceed memory. All
// numbers are little-endian.
//
// STEM.ids, renamed into place after the others: a cache is there once this file is.
// | bytes        | what                                                       |
// |--------------|------------------------------------------------------------|
// | 0 .. 7       | "CRSLTOK1"                                                 |
// | 8 .. 15      | u64: bytes of an id, 2 or 4                                |
// | 16 .. 23     | u64: number of ids                                         |
// | 24 .. 31     | u64: number of documents                                   |
// | 32 .. 39     | u64: number of pairs: an id and the one after it           |
// | 40 .. 47     | u64: 1 if there is STEM.scored                             |
// | 48 .. 71     | u64 x 3: hashes of the file, the tokenizer and the options |
// | 72 .. 255    | the tokenizer's name, filled up with zeros                 |
// | 256 ..       | the ids                                                    |
//
// STEM.documents: for every document u64 x 2, its first id and the number of pairs before it; then one such entry for
// the end. A document that begins with the last id of the one before shares it.
// STEM.scored: u8 per id, whether the loss counts it as a target.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "carousel/formats/mapped_file.h"
#include "carousel/formats/new_file.h"
#include "carousel/train/documents.h"

namespace carousel::train {

/// What a cache is made from.
struct CacheKey {
  uint64_t contents = 0;   // hash of the file's bytes
  uint64_t tokenizer = 0;  // Vocabulary::hash
  uint64_t options = 0;    // hash of how the file was read
  std::string name;        // Vocabulary::name

  bool operator==(const CacheKey& other) const {
    return contents == other.contents && tokenizer == other.tokenizer && options == other.options;
  }
};

class TokenCache {
 public:
  /// Whether a cache is there. A file that is none is no cache: it is written anew.
  static bool exists(const std::string& stem);
  /// Throws Error(kIo, kInput) where the cache cannot be used, and for one with another tokenizer, naming both.
  static TokenCache open(const std::string& stem, const CacheKey& key);

  int64_t documents() const { return documents_; }
  int64_t pairs() const { return pairs_; }
  int32_t id(int64_t i) const {
    return width_ == 2 ? static_cast<int32_t>(ids16_[i]) : static_cast<int32_t>(ids32_[i]);
  }
  bool scored(int64_t i) const { return scored_ == nullptr || scored_[i] != 0; }

  /// The document that holds a pair, 0 <= pair < pairs().
  int64_t document_of(int64_t pair) const;
  int64_t first_id(int64_t document) const { return static_cast<int64_t>(table_[2 * document]); }
  int64_t first_pair(int64_t document) const { return static_cast<int64_t>(table_[2 * document + 1]); }

  /// Gives all pages back: those that are read again are mapped again.
  void release() const;

 private:
  int64_t documents_ = 0, pairs_ = 0;
  int width_ = 4;                                                  // bytes of an id
  const uint16_t* ids16_ = nullptr;                                // [ids], if width_ is 2
  const uint32_t* ids32_ = nullptr;                                // [ids], if width_ is 4
  const uint64_t* table_ = nullptr;                                // [documents_ + 1, 2]
  const uint8_t* scored_ = nullptr;                                // [ids]; null: all are
  std::vector<std::shared_ptr<const formats::MappedFile>> files_;  // what the pointers point into
};

class TokenCacheWriter {
 public:
  /// Ids are below `vocabulary`. Throws Error(kIo).
  TokenCacheWriter(const std::string& stem, const CacheKey& key, int64_t vocabulary);
  /// Adds a document, or the next part of one.
  void add(const Document& part);
  /// Completes the cache. Throws Error(kIo).
  void finish();

 private:
  /// Bytes on their way to a file.
  class Stream {
   public:
    explicit Stream(const std::string& path, size_t offset) : file_(path), offset_(offset) {}
    void add(const void* bytes, size_t size_bytes);
    void flush();
    formats::NewFile& file() { return file_; }

   private:
    formats::NewFile file_;
    size_t offset_;  // in the file, of what is pending
    std::string pending_;
  };
  void add_id(int32_t id, bool scored);
  void add_entry(int64_t first_id);
  void write_header();

  std::string stem_;
  CacheKey key_;
  int width_;  // bytes of an id
  Stream ids_, table_;
  std::unique_ptr<Stream> scored_;  // null until an id is not scored
  int64_t count_ = 0;               // ids written
  int64_t documents_ = 0;           // documents written
  int64_t pairs_ = 0;               // pairs of these documents
  int32_t last_ = -1;               // the id written last
  // The document that is being added. One of a single id has no pair, and is left out.
  bool begun_ = false;     // its first id is known
  bool written_ = false;   // its first id is written
  int32_t first_id_ = -1;  // its first id
  int64_t first_ = 0;      // the place of its first id
};

}  // namespace carousel::train
