// SPDX-License-Identifier: Apache-2.0
// Documents of ids: the shards of llm.c, bare ids and one-dimensional arrays.
//
// A shard:
// | bytes       | what                                                |
// |-------------|-----------------------------------------------------|
// | 0 .. 3      | magic, i32: 20240520 (ids are u16) or 20240801 (u32) |
// | 4 .. 7      | version, i32: 1, of u32 ids 7 or 1                   |
// | 8 .. 11     | number of ids, i32                                  |
// | 12 .. 1023  | unused                                              |
// | 1024 ..     | the ids                                             |
#include <algorithm>
#include <cstring>
#include <string_view>

#include "carousel/core/error.h"
#include "carousel/formats/npy.h"
#include "carousel/train/documents.h"

namespace carousel::train {
namespace {

constexpr int32_t kMagic16 = 20240520, kMagic32 = 20240801;
constexpr int32_t kVersion32 = 7;  // llm.c writes it for the vocabulary of Llama 3
constexpr size_t kHeaderBytes = 256 * sizeof(int32_t);
constexpr size_t kPartIds = size_t{1} << 22;  // a longer document comes in parts
constexpr const char* kEndOfText = "<|endoftext|>";

/// Numbers where they lie in a file.
struct Ids {
  std::span<const std::byte> bytes;
  size_t width = 2;        // bytes of a number
  bool is_signed = false;  // two's complement
  bool shard = false;

  size_t count() const { return bytes.size() / width; }
  /// As i64; a number beyond it is -1, which no vocabulary holds.
  int64_t at(size_t i) const {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + i * width, width);
    if (is_signed && width < 8 && (value >> (8 * width - 1)) != 0) value |= ~uint64_t{0} << (8 * width);
    const auto number = static_cast<int64_t>(value);
    return number < 0 && !is_signed ? -1 : number;
  }
};

int32_t word_at(std::span<const std::byte> bytes, size_t i) {
  int32_t word = 0;
  if (bytes.size() >= (i + 1) * sizeof word) std::memcpy(&word, bytes.data() + i * sizeof word, sizeof word);
  return word;
}

Ids open_shard(const formats::MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  const size_t width = word_at(bytes, 0) == kMagic16 ? 2 : 4;
  const int32_t version = word_at(bytes, 1), newest = width == 2 ? 1 : kVersion32;
  if (bytes.size() < kHeaderBytes || (version != 1 && version != newest)) {
    fail(ErrorKind::kInput, "{}: a shard of {} bytes and version {}, expected a header of {} bytes and version {}",
         file.path(), bytes.size(), version, kHeaderBytes, newest);
  }
  const int64_t count = word_at(bytes, 2);
  if (count < 0 || static_cast<uint64_t>(count) * width != bytes.size() - kHeaderBytes) {
    fail(ErrorKind::kInput, "{}: {} bytes of ids, expected {} ids of {} bytes as its header says", file.path(),
         bytes.size() - kHeaderBytes, count, width);
  }
  return {bytes.subspan(kHeaderBytes), width, false, true};
}

Ids open_bin(const formats::MappedFile& file, const ReadOptions& options) {
  const int32_t magic = word_at(file.bytes(), 0);
  if (magic == kMagic16 || magic == kMagic32) return open_shard(file);
  if (options.id_bytes == 0) {
    fail(ErrorKind::kInput, "{}: begins with {}, expected a shard of llm.c ({} or {}); --ids u16 or u32 reads bare ids",
         file.path(), magic, kMagic16, kMagic32);
  }
  const auto width = static_cast<size_t>(options.id_bytes);
  if (file.bytes().size() % width != 0) {
    fail(ErrorKind::kInput, "{}: {} bytes, expected a multiple of {} (--ids)", file.path(), file.bytes().size(), width);
  }
  return {file.bytes(), width, false, false};
}

Ids open_npy(const formats::MappedFile& file) {
  const formats::NpyArray array = formats::view_npy(file.bytes(), file.path());
  const bool integers = array.descr.find_first_of("iu") == 1;
  if (!integers || array.shape.size() != 1) {
    fail(ErrorKind::kInput, "{}: {} dimensions of \"{}\", expected one dimension of integers", file.path(),
         array.shape.size(), array.descr);
  }
  return {array.elements, array.element_bytes, array.descr[1] == 'i', false};
}

/// The id that divides documents; nothing where they are one.
std::optional<int32_t> divider_of(const Ids& ids, const std::string& path, const ReadOptions& options,
                                  const Vocabulary& vocabulary) {
  const bool asked = options.separator.has_value();
  if (!ids.shard && !asked) return std::nullopt;
  const std::string text = options.separator.value_or(kEndOfText);
  if (!vocabulary.tokenizer || vocabulary.bytes) {
    if (!asked) return std::nullopt;
    fail(ErrorKind::kInput, "{}: --separator \"{}\": the model has no tokenizer, expected one that has this token",
         path, text);
  }
  const std::optional<int32_t> id = vocabulary.tokenizer->id_of(text);
  if (!id && asked) {
    fail(ErrorKind::kInput, "{}: --separator \"{}\": expected a token of the tokenizer, as the file holds ids", path,
         text);
  }
  return id;
}

}  // namespace

void read_ids(const formats::MappedFile& file, FileKind kind, const ReadOptions& options, const Vocabulary& vocabulary,
              const DocumentSink& sink) {
  const Ids ids = kind == FileKind::kNpy ? open_npy(file) : open_bin(file, options);
  const std::optional<int32_t> divider = divider_of(ids, file.path(), options, vocabulary);
  PageRelease pages(file);
  Document part;
  for (size_t i = 0; i < ids.count(); ++i) {
    const int64_t id = ids.at(i);
    if (id < 0 || id >= vocabulary.size) {
      fail(ErrorKind::kInput, "{}: id {} at offset {}, expected ids from 0 to {}", file.path(), id, i,
           vocabulary.size - 1);
    }
    const bool begun = !part.ids.empty() || part.goes_on;  // the document has an id before this one
    const bool last = i + 1 == ids.count(), divides = begun && divider && id == *divider;
    part.ids.push_back(static_cast<int32_t>(id));
    if (!divides && !last && part.ids.size() < kPartIds) continue;
    part.goes_on = !divides && !last;
    sink(part);
    part.ids.clear();
    // The divider that ends a document begins the next one.
    if (divides && !last) part.ids.push_back(static_cast<int32_t>(id));
    pages.read_up_to(ids.bytes.data() + i * ids.width);
  }
}

}  // namespace carousel::train
