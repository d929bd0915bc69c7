// SPDX-License-Identifier: Apache-2.0
// The reading half of gguf.h: header, keys and the list of tensors, every length checked against the file.
#include "carousel/formats/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "carousel/core/error.h"
#include "carousel/formats/gguf_kind.h"

namespace carousel::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMaxKeys = uint64_t{1} << 16;
constexpr uint64_t kMaxTensors = uint64_t{1} << 20;
constexpr size_t kMaxKeyBytes = 65535;
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kMaxStringBytes = size_t{64} << 20;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 65536;
constexpr int kMaxRank = 4;
constexpr uint64_t kMaxInt = INT64_MAX;

}  // namespace

bool is_gguf(const std::string& path) {
  if (path.ends_with(".gguf")) return true;
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return false;  // opening a pipe would wait for its writer
  std::ifstream stream(path, std::ios::binary);
  char magic[4] = {};
  return stream.read(magic, 4) && std::memcmp(magic, &kMagic, 4) == 0;
}

// Reads the file's header front to back; every length is first checked against the rest of the file.
class GgufFile::Reader {
 public:
  Reader(GgufFile& out, std::span<const std::byte> bytes, const std::string& where,
         std::shared_ptr<const MappedFile> file)
      : out_(out), bytes_(bytes), where_(where), file_(std::move(file)) {}

  void read() {
    read_head();
    for (uint64_t i = 0; i < keys_; ++i) read_key(i);
    const uint64_t alignment = read_alignment();
    for (uint64_t i = 0; i < tensors_; ++i) read_tensor(i, alignment);
    place_tensors(alignment);
  }

 private:
  size_t left() const { return bytes_.size() - pos_; }

  const std::byte* take(uint64_t size, const std::string& what) {
    if (size > left()) {
      fail(ErrorKind::kInput, "{}: {} takes {} bytes, but only {} follow: the file is truncated", where_, what, size,
           left());
    }
    const std::byte* begin = bytes_.data() + pos_;
    pos_ += size;
    return begin;
  }

  template <class T>
  T number(const std::string& what) {
    return load<T>(take(sizeof(T), what));
  }

  std::string_view string(const std::string& what, size_t max_bytes) {
    const auto length = number<uint64_t>(what);
    if (length > max_bytes) {
      fail(ErrorKind::kInput, "{}: {} is a string of {} bytes, expected at most {}", where_, what, length, max_bytes);
    }
    return {reinterpret_cast<const char*>(take(length, what)), length};
  }

  std::string name(const std::string& what, size_t max_bytes) {
    const std::string_view text = string(what, max_bytes);
    if (text.empty() || text.find('\0') != text.npos || !is_utf8(text)) {
      fail(ErrorKind::kInput, "{}: {} is empty or no UTF-8 text", where_, what);
    }
    return std::string(text);
  }

  void read_head() {
    if (bytes_.size() < 24 || load<uint32_t>(bytes_.data()) != kMagic) {
      fail(ErrorKind::kInput, "{}: does not begin with \"GGUF\" and a header of 24 bytes: not a GGUF file", where_);
    }
    pos_ = 4;
    out_.version_ = number<uint32_t>("version");
    if ((out_.version_ & 0xFFFF) == 0) {
      fail(ErrorKind::kInput, "{}: the file is big-endian, expected little-endian", where_);
    }
    if (out_.version_ != 2 && out_.version_ != 3) {
      fail(ErrorKind::kInput, "{}: GGUF version {}, expected 2 or 3", where_, out_.version_);
    }
    tensors_ = number<uint64_t>("number of tensors");
    keys_ = number<uint64_t>("number of keys");
    // A key takes at least an empty name, a type and one byte; a tensor at least name, rank, type and offset.
    check_count("keys", keys_, kMaxKeys, 13);
    check_count("tensors", tensors_, kMaxTensors, 24);
  }

  void check_count(const char* what, uint64_t count, uint64_t limit, size_t least_bytes) {
    const uint64_t most = std::min<uint64_t>(limit, left() / least_bytes);
    if (count > most) {
      fail(ErrorKind::kInput, "{}: {} {}, expected at most {} in {} bytes", where_, count, what, most, bytes_.size());
    }
  }

  void read_key(uint64_t index) {
    const std::string key = name(fmt::format("key {}", index), kMaxKeyBytes);
    const std::string what = fmt::format("\"{}\"", key.substr(0, 100));
    const auto kind = number<uint32_t>(what);
    if (kind >= kKinds) fail(ErrorKind::kInput, "{}: {} is of type {}, expected 0 to 12", where_, what, kind);
    GgufMetadata& out = out_.metadata_;
    if (out.arrays.count(key) != 0 || out.values.contains(key)) twice(what);
    if (kind == kArray) {
      const GgufArray& array = out.arrays[key] = read_array(what);
      if (array.listed()) out.values[key] = array.list();
      return;
    }
    Json value;
    if (kind == kString) {
      const std::string_view text = string(what, kMaxStringBytes);
      if (!is_utf8(text)) fail(ErrorKind::kInput, "{}: {} is not valid UTF-8", where_, what);
      value = text;
    } else {
      const std::byte* bytes = take(kKindBytes[kind], what);
      if (kind == kBool) check_bools(bytes, 1, what);
      value = gguf_scalar(kind, bytes);
    }
    out.values[key] = std::move(value);
  }

  [[noreturn]] void twice(const std::string& what) { fail(ErrorKind::kInput, "{}: {} appears twice", where_, what); }

  void check_bools(const std::byte* bytes, uint64_t count, const std::string& what) {
    for (uint64_t i = 0; i < count; ++i) {
      const int value = std::to_integer<int>(bytes[i]);
      if (value > 1) fail(ErrorKind::kInput, "{}: {} is a bool of value {}, expected 0 or 1", where_, what, value);
    }
  }

  GgufArray read_array(const std::string& what) {
    const auto kind = number<uint32_t>(what);
    const auto count = number<uint64_t>(what);
    if (kind >= kKinds || kind == kArray) {
      fail(ErrorKind::kInput, "{}: {} is an array of type {}, expected numbers, bools or strings", where_, what, kind);
    }
    const size_t begin = pos_;
    if (kind == kString) {
      // A string takes 8 bytes at least, so a count that cannot be is refused before the walk.
      uint64_t lengths = 0;  // the sum of all lengths
      if (__builtin_mul_overflow(count, uint64_t{8}, &lengths)) lengths = UINT64_MAX;
      if (lengths > left()) take(lengths, fmt::format("{} with {} strings", what, count));
      for (uint64_t i = 0; i < count; ++i) string(what, kMaxStringBytes);
    } else {
      uint64_t size = 0;
      if (__builtin_mul_overflow(count, uint64_t{kKindBytes[kind]}, &size)) size = UINT64_MAX;
      const std::byte* bytes = take(size, fmt::format("{} with {} elements", what, count));
      if (kind == kBool) check_bools(bytes, count, what);
    }
    return {kind, count, bytes_.subspan(begin, pos_ - begin), fmt::format("{}: {}", where_, what), file_};
  }

  uint64_t read_alignment() {
    const Json& values = out_.metadata_.values;
    const auto it = values.find("general.alignment");
    if (it == values.end()) {
      if (out_.metadata_.array("general.alignment") == nullptr) return kDefaultAlignment;
      fail(ErrorKind::kInput, "{}: \"general.alignment\" is an array, expected a number", where_);
    }
    const bool fits = it->is_number_integer() && *it >= 8 && *it <= kMaxAlignment;
    if (!fits || !std::has_single_bit(it->get<uint64_t>())) {
      fail(ErrorKind::kInput, "{}: \"general.alignment\" is {}, expected a power of two from 8 to {}", where_,
           brief(*it), kMaxAlignment);
    }
    return it->get<uint64_t>();
  }

  void read_tensor(uint64_t index, uint64_t alignment) {
    TensorEntry entry;
    entry.name = name(fmt::format("name of tensor {}", index), kMaxNameBytes);
    const std::string what = fmt::format("tensor \"{}\"", entry.name);
    const auto rank = number<uint32_t>(what);
    if (rank < 1 || rank > kMaxRank) {
      fail(ErrorKind::kInput, "{}: {} has {} dimensions, expected 1 to {}", where_, what, rank, kMaxRank);
    }
    std::vector<int64_t> dims;
    uint64_t count = 1;
    for (uint32_t i = 0; i < rank; ++i) {
      const auto dim = number<uint64_t>(what);
      if (dim == 0 || __builtin_mul_overflow(count, dim, &count) || count > kMaxInt / 16) {
        fail(ErrorKind::kInput, "{}: {} has a dimension of {}, expected 1 or more and a product below 2^59", where_,
             what, dim);
      }
      dims.push_back(static_cast<int64_t>(dim));
    }
    set_type(entry, number<uint32_t>(what), dims[0], what);
    std::reverse(dims.begin(), dims.end());
    entry.shape = Shape(dims);
    entry.size_bytes = *find_ggml_type(types_.back())->bytes_of(static_cast<int64_t>(count));
    const auto offset = number<uint64_t>(what);
    if (offset % alignment != 0) {
      fail(ErrorKind::kInput, "{}: {} begins at byte {}, expected a multiple of {}", where_, what, offset, alignment);
    }
    entry.file = file_;
    offsets_.push_back(offset);
    if (!names_.emplace(entry.name, index).second) twice(what);
    out_.entries_.push_back(std::move(entry));
  }

  void set_type(TensorEntry& entry, uint32_t id, int64_t row, const std::string& what) {
    const GgmlType* type = find_ggml_type(id);
    if (type == nullptr) {
      fail(ErrorKind::kInput, "{}: {} is of type {}, expected one of: {}", where_, what, id, decodable_ggml_types());
    }
    if (row % type->block != 0) {
      fail(ErrorKind::kInput, "{}: {} has rows of {}, expected a multiple of {} for {}", where_, what, row, type->block,
           type->name);
    }
    entry.set_type(*type);
    types_.push_back(id);
  }

  // Gives every tensor its bytes within the data section; no two may share any.
  void place_tensors(uint64_t alignment) {
    const uint64_t body = (pos_ + alignment - 1) / alignment * alignment;
    const uint64_t size = bytes_.size() > body ? bytes_.size() - body : 0;
    for (size_t i = 0; i < out_.entries_.size(); ++i) {
      TensorEntry& entry = out_.entries_[i];
      if (offsets_[i] > size || entry.size_bytes > size - offsets_[i]) {
        fail(ErrorKind::kInput,
             "{}: tensor \"{}\" has {} bytes from byte {} of the data, expected them within its {}: the file is "
             "truncated",
             where_, entry.name, entry.size_bytes, offsets_[i], size);
      }
      entry.bytes = bytes_.data() + body + offsets_[i];
    }
    std::sort(out_.entries_.begin(), out_.entries_.end(), [](const TensorEntry& a, const TensorEntry& b) {
      return std::tie(a.bytes, a.name) < std::tie(b.bytes, b.name);
    });
    for (size_t i = 1; i < out_.entries_.size(); ++i) {
      const TensorEntry &before = out_.entries_[i - 1], &entry = out_.entries_[i];
      if (before.bytes + before.size_bytes > entry.bytes) {
        fail(ErrorKind::kInput, "{}: tensor \"{}\" overlaps \"{}\"", where_, entry.name, before.name);
      }
    }
  }

  GgufFile& out_;
  std::span<const std::byte> bytes_;
  const std::string& where_;
  std::shared_ptr<const MappedFile> file_;
  size_t pos_ = 0;
  uint64_t tensors_ = 0, keys_ = 0;
  std::vector<uint64_t> offsets_;
  std::vector<uint32_t> types_;
  std::unordered_map<std::string, uint64_t> names_;
};

GgufFile GgufFile::open(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  GgufFile result;
  Reader(result, file->bytes(), path, file).read();
  return result;
}

GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& where) {
  GgufFile result;
  Reader(result, bytes, where, nullptr).read();
  return result;
}

}  // namespace carousel::formats
