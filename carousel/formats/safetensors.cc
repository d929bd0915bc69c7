// SPDX-License-Identifier: Apache-2.0
// The reading half of safetensors.h: the header, checked before any tensor is handed out.
#include "carousel/formats/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <tuple>

#include "carousel/core/error.h"
#include "carousel/core/json.h"

namespace carousel::formats {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own library
constexpr int kMaxDepth = 4;                     // header, tensor, list: three levels, and one to name what is wrong
constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

std::string_view header_of(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < kLengthBytes) {
    fail(ErrorKind::kInput, "{}: {} bytes, too short for a safetensors file, expected at least 8", where, bytes.size());
  }
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  const size_t rest = bytes.size() - kLengthBytes;
  if (length > kMaxHeaderBytes) {
    fail(ErrorKind::kInput, "{}: header of {} bytes, expected at most {}: not a safetensors file", where, length,
         kMaxHeaderBytes);
  }
  if (length > rest) {
    fail(ErrorKind::kInput, "{}: header of {} bytes, but only {} follow: the file is truncated", where, length, rest);
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (header.empty() || header.front() != '{') fail(ErrorKind::kInput, "{}: header does not start with {{", where);
  return header;
}

Metadata metadata_of(const Json& object, const std::string& where) {
  if (!object.is_object()) fail(ErrorKind::kInput, "{}: __metadata__ is {}, expected an object", where, brief(object));
  Metadata metadata;
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) {
      fail(ErrorKind::kInput, "{}: __metadata__ \"{}\" is {}, expected a string", where, key, brief(value));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// The tensor `name`, with its bytes within `body` by its own offsets; gaps and overlaps are checked later.
TensorEntry entry_of(const std::string& name, const Json& object, std::span<const std::byte> body,
                     const std::string& where) {
  Fields fields(object, where + ": \"" + name + "\"");
  TensorEntry entry;
  entry.name = name;
  const std::string dtype = fields.string("dtype");
  if (!parse_dtype(dtype, &entry.dtype)) {
    fail(ErrorKind::kInput,
         "{}: dtype \"{}\" is not supported, expected one of: F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL",
         fields.where(), dtype);
  }
  if (!fields.has("shape")) fail(ErrorKind::kInput, "{}: \"shape\" is missing", fields.where());
  entry.shape = Shape(fields.integers("shape", 0, kMaxInt, Shape::kMaxRank));
  size_t size_bytes = dtype_size(entry.dtype);
  for (int i = 0; i < entry.shape.rank(); ++i) {
    if (__builtin_mul_overflow(size_bytes, static_cast<size_t>(entry.shape[i]), &size_bytes) || size_bytes > kMaxInt) {
      fail(ErrorKind::kInput, "{}: shape {} of {} overflows", fields.where(), entry.shape.str(), dtype);
    }
  }
  const std::vector<int64_t> offsets = fields.integers("data_offsets", 0, kMaxInt, 2);
  fields.finish();
  if (offsets.size() != 2) {
    fail(ErrorKind::kInput, "{}: {} data_offsets, expected [begin, end]", fields.where(), offsets.size());
  }
  const auto begin = static_cast<size_t>(offsets[0]);
  const auto end = static_cast<size_t>(offsets[1]);
  if (begin > end) fail(ErrorKind::kInput, "{}: data_offsets [{}, {}] are reversed", fields.where(), begin, end);
  if (end > body.size()) {
    fail(ErrorKind::kInput, "{}: data_offsets [{}, {}] end beyond the {} bytes of data: the file is truncated",
         fields.where(), begin, end, body.size());
  }
  if (end - begin != size_bytes) {
    fail(ErrorKind::kInput, "{}: data_offsets [{}, {}] hold {} bytes, expected {} for {} {}", fields.where(), begin,
         end, end - begin, size_bytes, dtype, entry.shape.str());
  }
  entry.bytes = body.data() + begin;
  entry.size_bytes = size_bytes;
  return entry;
}

// Gives the U8 tensors that the metadata lists as blocks their block type.
void read_blocks(std::vector<TensorEntry>& entries, const Metadata& metadata, const std::string& where) {
  const auto marker = metadata.find(kBlocksKey);
  if (marker == metadata.end()) return;
  const std::string here = where + ": " + kBlocksKey;
  const Json types = parse_json(marker->second, here, {kMaxHeaderBytes, 2});
  if (!types.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", here, brief(types));
  size_t found = 0;
  for (TensorEntry& entry : entries) {
    const auto type = types.find(entry.name);
    if (type == types.end()) continue;
    ++found;
    DType dtype = DType::kQ8;
    if (!type->is_string() || !parse_block_type(type->get<std::string>(), &dtype)) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected \"Q8\" or \"Q4\", or the name of GGUF's other blocks", here,
           entry.name, brief(*type));
    }
    const auto values = static_cast<int64_t>(block_values(dtype));
    const auto block_bytes = static_cast<int64_t>(dtype_bytes(dtype, block_values(dtype)));
    const int rank = entry.shape.rank();
    if (entry.dtype != DType::kU8 || rank == 0 || entry.shape[-1] % block_bytes != 0) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected U8 with rows of whole {} blocks of {} bytes", here,
           entry.name, dtype_name(entry.dtype), entry.shape.str(), dtype_name(dtype), block_bytes);
    }
    Shape shape;
    for (int i = 0; i + 1 < rank; ++i) shape.push_back(entry.shape[i]);
    shape.push_back(entry.shape[-1] / block_bytes * values);
    entry.dtype = dtype;
    entry.shape = shape;
  }
  if (found == types.size()) return;
  for (const auto& item : types.items()) {
    const std::string& name = item.key();
    const bool known =
        std::any_of(entries.begin(), entries.end(), [&](const TensorEntry& e) { return e.name == name; });
    if (!known) fail(ErrorKind::kInput, "{}: \"{}\" is not in the file", here, name);
  }
}

// Checks that the entries, sorted by offset, cover `body` once from end to end.
void check_cover(const std::vector<TensorEntry>& entries, std::span<const std::byte> body, const std::string& where) {
  size_t covered = 0;
  const TensorEntry* previous = nullptr;
  for (const TensorEntry& entry : entries) {
    const auto begin = static_cast<size_t>(entry.bytes - body.data());
    if (begin < covered) {
      fail(ErrorKind::kInput, "{}: \"{}\" begins at byte {} and overlaps \"{}\", which ends at {}", where, entry.name,
           begin, previous->name, covered);
    }
    if (begin > covered) {
      fail(ErrorKind::kInput, "{}: {} bytes before \"{}\" belong to no tensor", where, begin - covered, entry.name);
    }
    covered = begin + entry.size_bytes;
    previous = &entry;
  }
  if (covered != body.size()) {
    fail(ErrorKind::kInput, "{}: {} bytes after the last tensor belong to no tensor", where, body.size() - covered);
  }
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  const std::shared_ptr<const MappedFile> file = MappedFile::open(path);
  SafetensorsFile result;
  result.read(file->bytes(), path, file);
  return result;
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes, const std::string& where) {
  SafetensorsFile result;
  result.read(bytes, where, nullptr);
  return result;
}

void SafetensorsFile::read(std::span<const std::byte> bytes, const std::string& where,
                           std::shared_ptr<const MappedFile> file) {
  const std::string_view text = header_of(bytes, where);
  const std::span<const std::byte> body = bytes.subspan(kLengthBytes + text.size());
  const Json header = parse_json(text, where, {kMaxHeaderBytes, kMaxDepth});
  if (!header.is_object()) fail(ErrorKind::kInput, "{}: header is {}, expected an object", where, brief(header));
  for (const auto& [name, object] : header.items()) {
    if (name == "__metadata__") {
      metadata_ = metadata_of(object, where);
      continue;
    }
    entries_.push_back(entry_of(name, object, body, where));
    entries_.back().file = file;
  }
  std::sort(entries_.begin(), entries_.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.bytes, a.size_bytes, a.name) < std::tie(b.bytes, b.size_bytes, b.name);
  });
  check_cover(entries_, body, where);
  read_blocks(entries_, metadata_, where);
  for (size_t i = 0; i < entries_.size(); ++i) by_name_[entries_[i].name] = i;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &entries_[it->second];
}

NamedTensors SafetensorsFile::load_all() const {
  NamedTensors tensors;
  for (const TensorEntry& entry : entries_) tensors.push_back({entry.name, entry.load()});
  return tensors;
}

}  // namespace carousel::formats
