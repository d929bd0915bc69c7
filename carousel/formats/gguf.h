// SPDX-License-Identifier: Apache-2.0
// GGUF: metadata of typed keys and named tensors in one file, as llama.cpp and its relatives use it, versions 2 and 3,
// little-endian. Reading maps the file and checks everything before anything is handed out; checkpoint.h joins the
// files of a split model. model/gguf knows what keys and names mean.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {

/// An array of a GGUF file, not yet unpacked: a vocabulary may have 10^5 strings. Valid as long as the file's bytes.
class GgufArray {
 public:
  GgufArray() = default;
  GgufArray(uint32_t type, uint64_t count, std::span<const std::byte> bytes, std::string where,
            std::shared_ptr<const MappedFile> file = nullptr)
      : type_(type), count_(count), bytes_(bytes), where_(std::move(where)), file_(std::move(file)) {}
  size_t size() const { return count_; }
  /// The elements. These three throw Error(kInput) naming the key when the elements have another type.
  std::vector<std::string_view> strings() const;
  std::vector<int64_t> integers() const;  // elements may be of any integer type or bool
  std::vector<float> numbers() const;     // elements may be of any number type
  /// Whether the array is short and of numbers or bools; then it can also be had as JSON.
  bool listed() const;
  Json list() const;

 private:
  uint32_t type_ = 0;
  uint64_t count_ = 0;
  std::span<const std::byte> bytes_;
  std::string where_;  // file and key
  std::shared_ptr<const MappedFile> file_;
};

/// The metadata of one file. Scalars, and short arrays of numbers, are in `values` under their keys; every array is
/// also in `arrays`.
struct GgufMetadata {
  Json values = Json::object();
  std::map<std::string, GgufArray> arrays;
  const GgufArray* array(const std::string& key) const;  // nullptr: absent
};

/// True when the name says so, or the file begins as a GGUF file does. False also when it cannot be read.
bool is_gguf(const std::string& path);

class GgufFile {
 public:
  /// Throws Error(kIo) or, for a malformed file, Error(kInput) naming the file, the key or tensor, got and expected.
  static GgufFile open(const std::string& path);
  /// The same for a file in memory, which must outlive the result.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& where);

  uint32_t version() const { return version_; }
  const GgufMetadata& metadata() const { return metadata_; }
  /// The tensors, in the order of their bytes. Shapes are in row-major order: GGUF's own dims reversed.
  const std::vector<TensorEntry>& entries() const { return entries_; }

 private:
  class Reader;
  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<TensorEntry> entries_;
};

/// A metadata value to be written; its alternative decides the type in the file.
using GgufValue = std::variant<uint32_t, int32_t, uint64_t, float, double, bool, std::string, std::vector<int32_t>,
                               std::vector<float>, std::vector<std::string>>;
using GgufKeys = std::vector<std::pair<std::string, GgufValue>>;

struct GgufTensorSpec {
  std::string name;
  const GgmlType* type = nullptr;
  Shape shape;  // row-major: reversed in the file
};

/// Writes a GGUF 3 file piece by piece: keys and tensor list first, then the bytes of the tensors in any order. The
/// file appears under its name, complete, when finish() returns; before that, or on an error, nothing is at `path`.
class GgufWriter {
 public:
  /// Throws Error(kInput): a key or tensor twice, a name longer than readers take, a text that is not UTF-8, a shape
  /// its type cannot hold; Error(kIo) as NewFile.
  GgufWriter(const std::string& path, const GgufKeys& keys, const std::vector<GgufTensorSpec>& tensors);
  /// Writes the next encoded bytes of a tensor: all of them, or pieces in order.
  void write(const std::string& name, const void* bytes, size_t size_bytes);
  /// Completes the file. Throws Error(kInput) when a tensor was not written to its end.
  void finish();

 private:
  struct Place {
    size_t begin = 0, size_bytes = 0, written = 0;
  };
  std::string path_;
  std::unique_ptr<NewFile> file_;
  std::unordered_map<std::string, Place> places_;
};

constexpr size_t kMaxGgufName = 63;  // bytes of a tensor's name that all readers take

}  // namespace carousel::formats
