// SPDX-License-Identifier: Apache-2.0
// The files of a source: found by the hash of their contents among the caches, or read into new ones; and their rows.
#include "carousel/train/source.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>

#include "carousel/core/error.h"
#include "carousel/core/files.h"

namespace carousel::train {
namespace {

constexpr int kFormat = 1;  // changes where a reader gives other documents than before

uint64_t hash_contents(const formats::MappedFile& file) {
  constexpr size_t kBytes = size_t{1} << 20;
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> hash(XXH3_createState(), XXH3_freeState);
  XXH3_64bits_reset(hash.get());
  PageRelease pages(file);
  const std::span<const std::byte> bytes = file.bytes();
  for (size_t at = 0; at < bytes.size(); at += kBytes) {
    const size_t size = std::min(kBytes, bytes.size() - at);
    XXH3_64bits_update(hash.get(), bytes.data() + at, size);
    pages.read_up_to(bytes.data() + at + size);
  }
  return XXH3_64bits_digest(hash.get());
}

uint64_t hash_options(const DataFile& file, const SourceOptions& options, const Vocabulary& vocabulary) {
  const ReadOptions& read = options.read;
  const std::string separator = read.separator ? "=" + *read.separator : "";
  const std::string all = fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}\n{}", kFormat, static_cast<int>(file.kind), separator,
                                      read.key, static_cast<int>(read.loss_on), read.id_bytes, vocabulary.size,
                                      options.side == Side::kAll ? 0 : options.valid_fraction);
  return XXH3_64bits(all.data(), all.size());
}

std::string stem_of(const SourceOptions& options, const CacheKey& key) {
  return fmt::format("{}/{:016x}-{:016x}-{:016x}", options.cache_folder, key.contents, key.tokenizer, key.options);
}

std::string with_side(const std::string& stem, Side side) {
  return side == Side::kAll ? stem : stem + (side == Side::kTrain ? ".train" : ".valid");
}

// Refuses to read a file again for another tokenizer: whoever changed it in a folder of results did so by mistake. How
// the file was read does not matter: another tokenizer has another number of ids, which is one of the options.
void check_tokenizer(const SourceOptions& options, const CacheKey& key) {
  const std::string begin = fmt::format("{:016x}-", key.contents), mine = fmt::format("{:016x}-", key.tokenizer);
  if (!file_exists(options.cache_folder)) return;
  for (const std::string& name : names_in(options.cache_folder)) {
    if (!name.starts_with(begin) || !name.ends_with(".ids")) continue;
    if (name.compare(begin.size(), mine.size(), mine) == 0) continue;
    const std::string stem = options.cache_folder + "/" + name.substr(0, name.size() - 4);
    if (TokenCache::exists(stem)) TokenCache::open(stem, key);
  }
}

// The tokenizer may have more ids than the model. Readers of ids check them where they lie.
void check_ids(const std::string& path, const Document& part, const Vocabulary& vocabulary) {
  const auto found = std::find_if(part.ids.begin(), part.ids.end(), [&](int32_t id) { return id >= vocabulary.size; });
  if (found == part.ids.end()) return;
  fail(ErrorKind::kInput, "{}: the tokenizer makes the id {}, expected ids from 0 to {} (the model's vocabulary)", path,
       *found, vocabulary.size - 1);
}

/// The documents of a file on their way to one cache, or to those of both sides.
class Divider {
 public:
  Divider(const std::string& stem, const SourceOptions& options, const CacheKey& key, int64_t vocabulary)
      : fraction_(options.valid_fraction), divides_(options.side != Side::kAll) {
    const Side first = divides_ ? Side::kTrain : Side::kAll;
    train_ = std::make_unique<TokenCacheWriter>(with_side(stem, first), key, vocabulary);
    if (divides_) valid_ = std::make_unique<TokenCacheWriter>(with_side(stem, Side::kValid), key, vocabulary);
  }

  void add(const Document& part) {
    if (!begun_) to_valid_ = divides_ && is_chosen(part);
    begun_ = part.goes_on;
    (to_valid_ ? *valid_ : *train_).add(part);
  }
  void finish() {
    if (valid_) valid_->finish();
    train_->finish();
  }

 private:
  // The hash of the ids, or of the first part of a long document. It knows no seed and no place: a document stays on
  // its side, and so do its copies.
  bool is_chosen(const Document& part) const {
    const uint64_t hash = XXH3_64bits(part.ids.data(), part.ids.size() * sizeof(int32_t));
    return static_cast<double>(hash >> 11) * 0x1p-53 < fraction_;
  }

  double fraction_;
  bool divides_;
  bool begun_ = false;  // more parts of a document are to come
  bool to_valid_ = false;
  std::unique_ptr<TokenCacheWriter> train_, valid_;
};

TokenCache cache_of(const DataFile& file, const SourceOptions& options, const Vocabulary& vocabulary) {
  const auto bytes = formats::MappedFile::open(file.path);
  const CacheKey key{hash_contents(*bytes), vocabulary.hash, hash_options(file, options, vocabulary), vocabulary.name};
  const std::string stem = stem_of(options, key);
  if (!TokenCache::exists(with_side(stem, options.side))) {
    check_tokenizer(options, key);
    if (options.reading) options.reading(file.path);
    std::error_code error;
    std::filesystem::create_directories(options.cache_folder, error);
    if (error) fail(ErrorKind::kIo, "{}: cannot create: {}", options.cache_folder, error.message());
    Divider divider(stem, options, key, vocabulary.size);
    const auto sink = [&](const Document& part) {
      check_ids(file.path, part, vocabulary);
      divider.add(part);
    };
    read_documents(file, *bytes, options.read, vocabulary, sink);
    divider.finish();
  }
  return TokenCache::open(with_side(stem, options.side), key);
}

}  // namespace

Source::Source(const std::string& path, const SourceOptions& options, const Vocabulary& vocabulary) {
  for (const DataFile& file : list_files(path)) {
    TokenCache cache = cache_of(file, options, vocabulary);
    if (cache.pairs() == 0) continue;
    paths_.push_back(file.path);
    first_pair_.push_back(first_pair_.back() + cache.pairs());
    caches_.push_back(std::move(cache));
  }
  if (!caches_.empty()) return;
  if (options.side == Side::kAll) fail(ErrorKind::kInput, "{}: no document of two ids or more", path);
  fail(ErrorKind::kInput,
       "{}: no document to {}: --valid-fraction {} divides whole documents; --valid PATH names others", path,
       options.side == Side::kTrain ? "train on" : "validate with", options.valid_fraction);
}

int64_t Source::documents() const {
  int64_t count = 0;
  for (const TokenCache& cache : caches_) count += cache.documents();
  return count;
}

Source::Place Source::place_of(int64_t pair) const {
  const auto next = std::upper_bound(first_pair_.begin(), first_pair_.end(), pair);
  const auto file = static_cast<size_t>(next - first_pair_.begin()) - 1;
  return {file, pair - first_pair_[file]};
}

bool Source::is_cut(int64_t row, int64_t seq) const {
  const Place place = place_of(row * seq);
  const TokenCache& cache = caches_[place.file];
  return cache.first_pair(cache.document_of(place.pair)) < place.pair;
}

void Source::append(int64_t row, int64_t seq, int source, Row& out) const {
  Place place = place_of(row * seq);
  int64_t left = std::min(seq, pairs() - row * seq);
  int64_t document = caches_[place.file].document_of(place.pair);
  while (left > 0) {
    const TokenCache& cache = caches_[place.file];
    const int64_t end = cache.first_pair(document + 1), count = std::min(left, end - place.pair);
    const int64_t first = cache.first_id(document) + place.pair - cache.first_pair(document);
    for (int64_t i = first; i < first + count; ++i) {
      out.tokens.push_back(cache.id(i));
      out.targets.push_back(cache.scored(i + 1) ? cache.id(i + 1) : -1);
    }
    out.lengths.push_back(count);
    out.pieces.push_back({source, static_cast<int>(place.file), document});
    left -= count;
    place.pair += count;
    ++document;
    if (place.pair < cache.pairs()) continue;
    place = {place.file + 1, 0};
    document = 0;
  }
}

void Source::release() const {
  for (const TokenCache& cache : caches_) cache.release();
}

}  // namespace carousel::train
