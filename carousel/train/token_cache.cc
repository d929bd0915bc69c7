// SPDX-License-Identifier: Apache-2.0
// Writes and maps token caches; the layout is drawn in token_cache.h.
#include "carousel/train/token_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/core/files.h"

namespace carousel::train {
namespace {

constexpr std::string_view kMagic = "CRSLTOK1";
constexpr size_t kHeaderBytes = 256, kNameBytes = 184;
constexpr size_t kPendingBytes = size_t{1} << 20;
constexpr int64_t kMaxShort = 65536;  // vocabularies up to here have ids of two bytes

struct Header {
  std::array<char, 8> magic;
  uint64_t width, ids, documents, pairs, scored;
  uint64_t contents, tokenizer, options;
  std::array<char, kNameBytes> name;
};
static_assert(sizeof(Header) == kHeaderBytes);

std::string ids_path(const std::string& stem) { return stem + ".ids"; }

Header header_of(const formats::MappedFile& file) {
  Header header{};
  if (file.bytes().size() >= sizeof header) std::memcpy(&header, file.bytes().data(), sizeof header);
  return header;
}

bool is_cache(const Header& header) {
  return std::string_view(header.magic.data(), header.magic.size()) == kMagic &&
         (header.width == 2 || header.width == 4);
}

std::string name_of(const Header& header) {
  return std::string(header.name.data(), strnlen(header.name.data(), header.name.size()));
}

void check_size(const formats::MappedFile& file, uint64_t expected) {
  if (file.bytes().size() == expected) return;
  fail(ErrorKind::kInput, "{}: {} bytes, expected {}: remove it, and it is written anew", file.path(),
       file.bytes().size(), expected);
}

/// Refuses a table of documents that does not describe the ids. Every document has two ids or more, the first of which
/// may be the last one of the document before; what comes after the last document closes the table.
void check_table(const formats::MappedFile& file, const Header& header) {
  const auto* const table = reinterpret_cast<const uint64_t*>(file.bytes().data());
  const auto first_id = [&](uint64_t document) { return table[2 * document]; };
  const auto first_pair = [&](uint64_t document) { return table[2 * document + 1]; };
  bool fits = first_pair(0) == 0 && first_pair(header.documents) == header.pairs;
  for (uint64_t i = 0; fits && i < header.documents; ++i) {
    const uint64_t begin = first_pair(i), end = first_pair(i + 1);
    fits = begin < end && first_id(i) < header.ids && end - begin < header.ids - first_id(i);
  }
  if (!fits) fail(ErrorKind::kInput, "{}: damaged: remove it, and it is written anew", file.path());
}

}  // namespace

bool TokenCache::exists(const std::string& stem) {
  const std::string path = ids_path(stem);
  return file_exists(path) && is_cache(header_of(*formats::MappedFile::open(path)));
}

TokenCache TokenCache::open(const std::string& stem, const CacheKey& key) {
  TokenCache out;
  const auto ids = formats::MappedFile::open(ids_path(stem));
  const Header header = header_of(*ids);
  if (!is_cache(header)) fail(ErrorKind::kInput, "{}: no cache of tokens, expected one: remove it", ids->path());
  if (header.tokenizer != key.tokenizer) {
    fail(ErrorKind::kInput, "{}: ids of the tokenizer {}, expected those of {}: remove it, or write elsewhere",
         ids->path(), name_of(header), key.name);
  }
  if (!(key == CacheKey{header.contents, header.tokenizer, header.options, ""})) {
    fail(ErrorKind::kInput, "{}: ids of another file, or read in another way: remove it", ids->path());
  }
  constexpr uint64_t kMost = uint64_t{1} << 56;  // so that no size overflows
  if (header.ids > kMost || header.documents > kMost) {
    fail(ErrorKind::kInput, "{}: damaged: remove it, and it is written anew", ids->path());
  }
  check_size(*ids, kHeaderBytes + header.ids * header.width);
  const auto table = formats::MappedFile::open(stem + ".documents");
  check_size(*table, (header.documents + 1) * 2 * sizeof(uint64_t));
  check_table(*table, header);
  out.files_ = {ids, table};
  if (header.scored != 0) {
    out.files_.push_back(formats::MappedFile::open(stem + ".scored"));
    check_size(*out.files_.back(), header.ids);
    out.scored_ = reinterpret_cast<const uint8_t*>(out.files_.back()->bytes().data());
  }
  out.documents_ = static_cast<int64_t>(header.documents);
  out.pairs_ = static_cast<int64_t>(header.pairs);
  out.width_ = static_cast<int>(header.width);
  out.ids16_ = reinterpret_cast<const uint16_t*>(ids->bytes().data() + kHeaderBytes);
  out.ids32_ = reinterpret_cast<const uint32_t*>(ids->bytes().data() + kHeaderBytes);
  out.table_ = reinterpret_cast<const uint64_t*>(table->bytes().data());
  return out;
}

int64_t TokenCache::document_of(int64_t pair) const {
  int64_t low = 0, high = documents_;  // first_pair(low) <= pair < first_pair(high)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (first_pair(middle) <= pair) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

void TokenCache::release() const {
  for (const auto& file : files_) file->release(file->bytes().data(), file->bytes().size());
}

void TokenCacheWriter::Stream::add(const void* bytes, size_t size_bytes) {
  pending_.append(static_cast<const char*>(bytes), size_bytes);
  if (pending_.size() >= kPendingBytes) flush();
}

void TokenCacheWriter::Stream::flush() {
  file_.put(pending_.data(), pending_.size(), offset_);
  offset_ += pending_.size();
  pending_.clear();
}

TokenCacheWriter::TokenCacheWriter(const std::string& stem, const CacheKey& key, int64_t vocabulary)
    : stem_(stem),
      key_(key),
      width_(vocabulary <= kMaxShort ? 2 : 4),
      ids_(ids_path(stem), kHeaderBytes),
      table_(stem + ".documents", 0) {}

void TokenCacheWriter::add_id(int32_t id, bool scored) {
  ids_.add(&id, static_cast<size_t>(width_));  // little-endian: the low bytes come first
  if (!scored && !scored_) {
    scored_ = std::make_unique<Stream>(stem_ + ".scored", 0);
    const uint8_t yes = 1;
    for (int64_t i = 0; i < count_; ++i) scored_->add(&yes, 1);
  }
  const uint8_t flag = scored ? 1 : 0;
  if (scored_) scored_->add(&flag, 1);
  last_ = id;
  ++count_;
}

void TokenCacheWriter::add_entry(int64_t first_id) {
  const uint64_t entry[2] = {static_cast<uint64_t>(first_id), static_cast<uint64_t>(pairs_)};
  table_.add(entry, sizeof entry);
}

void TokenCacheWriter::add(const Document& part) {
  for (size_t i = 0; i < part.ids.size(); ++i) {
    if (!begun_) {
      begun_ = true;
      first_id_ = part.ids[i];
      continue;
    }
    if (!written_) {
      if (count_ == 0 || last_ != first_id_) add_id(first_id_, true);
      first_ = count_ - 1;
      written_ = true;
    }
    add_id(part.ids[i], part.scored.empty() || part.scored[i] != 0);
  }
  if (part.goes_on) return;
  if (written_) {
    add_entry(first_);
    pairs_ += count_ - 1 - first_;
    ++documents_;
  }
  begun_ = written_ = false;
}

void TokenCacheWriter::write_header() {
  Header header{};
  std::copy(kMagic.begin(), kMagic.end(), header.magic.begin());
  header.width = static_cast<uint64_t>(width_);
  header.ids = static_cast<uint64_t>(count_);
  header.documents = static_cast<uint64_t>(documents_);
  header.pairs = static_cast<uint64_t>(pairs_);
  header.scored = scored_ ? 1 : 0;
  header.contents = key_.contents;
  header.tokenizer = key_.tokenizer;
  header.options = key_.options;
  const std::string name = key_.name.substr(0, kNameBytes - 1);
  std::copy(name.begin(), name.end(), header.name.begin());
  ids_.file().put(&header, sizeof header, 0);
}

void TokenCacheWriter::finish() {
  add_entry(count_);
  write_header();
  for (Stream* stream : {scored_.get(), &table_, &ids_}) {
    if (stream == nullptr) continue;
    stream->flush();
    stream->file().finish();
  }
}

}  // namespace carousel::train
