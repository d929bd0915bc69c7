// SPDX-License-Identifier: Apache-2.0
// safetensors: named tensors in one file. A little-endian header length (8 bytes), a JSON header {name: {dtype, shape,
// data_offsets}}, then the bytes of the tensors without holes. Model weights, saved states and fixtures are all this.
// Tensors of block types (Q8, Q4, Q4_K, ...) are in the file as U8 whose last dimension is a row's bytes;
// "carousel.blocks" in the metadata, a JSON object {name: type}, says which they are. Reading maps the file and checks
// everything before any tensor is handed out; checkpoint.h joins the shards of a model.
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
#include <vector>

#include "carousel/core/tensor.h"
#include "carousel/formats/mapped_file.h"
#include "carousel/formats/new_file.h"

namespace carousel::formats {

using Metadata = std::map<std::string, std::string>;
constexpr const char* kBlocksKey = "carousel.blocks";

struct GgmlType;  // ggml_blocks.h

/// One tensor of a file. `bytes` need not be aligned to the dtype: the header may have any length.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* bytes = nullptr;
  size_t size_bytes = 0;
  std::shared_ptr<const MappedFile> file;  // null when parsed from memory
  const GgmlType* ggml = nullptr;          // the blocks of a GGUF file's tensor, whose dtype is then U8; null: none

  void set_type(const GgmlType& type);
  std::string type_name() const;  // "BF16", "Q4_K"
  /// Whether to_f32 takes its type: F32, F16, BF16, or blocks that can be decoded.
  bool is_weight() const;
  /// Bytes of `count` elements, which must be whole blocks where there are blocks.
  size_t bytes_of(int64_t count) const;
  /// Widens or decodes elements of this tensor's type; they must be whole blocks where there are blocks.
  void to_f32(const std::byte* source, int64_t count, float* out) const;

  /// The tensor without a copy where the bytes are aligned to the dtype, else load(). It keeps the mapping alive.
  Tensor view() const;
  /// A copy in fresh, aligned storage; blocks become their values in f32.
  Tensor load() const;
  void prefetch() const;
  /// Gives the mapped pages back; the bytes stay readable. For tensors that were repacked.
  void release() const;
  /// Index of the first NaN or infinity of a float tensor, or of decoded blocks.
  std::optional<int64_t> first_not_finite() const;
};

class SafetensorsFile {
 public:
  /// Throws Error(kIo) or, for a malformed file, Error(kInput) naming the file, the tensor, got and expected.
  static SafetensorsFile open(const std::string& path);
  /// The same for a file in memory, which must outlive the result and its views. `where` names it in messages.
  static SafetensorsFile parse(std::span<const std::byte> bytes, const std::string& where);

  const std::vector<TensorEntry>& entries() const { return entries_; }  // in the order of their bytes
  const TensorEntry* find(std::string_view name) const;                 // nullptr: no such tensor
  const Metadata& metadata() const { return metadata_; }
  NamedTensors load_all() const;  // copies, in the order of entries()

 private:
  void read(std::span<const std::byte> bytes, const std::string& where, std::shared_ptr<const MappedFile> file);

  std::vector<TensorEntry> entries_;
  std::unordered_map<std::string, size_t> by_name_;  // index into entries_
  Metadata metadata_;
};

/// One tensor of a file to be written.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

/// Writes a file tensor by tensor, in any order, so that no second copy of a model is needed. The file appears under
/// its name, complete and flushed to the disk, when finish() returns; before that, or on an error, nothing is at
/// `path`.
class SafetensorsWriter {
 public:
  /// Throws Error(kInput) for a repeated name, text that is not UTF-8 or rows that are no whole blocks, Error(kIo):
  /// `path` is something else than a regular file, or cannot be written.
  SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& specs, const Metadata& metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Writes one tensor; each spec exactly once, with the shape and dtype of the spec.
  void write(const std::string& name, const Tensor& tensor);
  void finish();

 private:
  struct Place {
    TensorSpec spec;
    size_t offset_bytes = 0;  // from the start of the file
    size_t size_bytes = 0;
    bool written = false;
  };
  std::string lay_out(const std::vector<TensorSpec>& specs, const Metadata& metadata);

  std::string path_;
  std::unique_ptr<NewFile> file_;
  std::unordered_map<std::string, Place> places_;
};

/// Writes all of `tensors`. The file appears whole or not at all.
void write_safetensors(const std::string& path, const NamedTensors& tensors, const Metadata& metadata = {});

}  // namespace carousel::formats
