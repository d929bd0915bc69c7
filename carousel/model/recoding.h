// SPDX-License-Identifier: Apache-2.0
// The values of a tensor in another type of GGUF's, in which safetensors of carousel hold their blocks too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "carousel/core/parallel.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/formats/safetensors.h"

namespace carousel::model {

/// The type that values of `dtype` are written as. A stored mask may have a dtype of bytes that GGUF lacks: its values
/// are -1, 0 and 1 in any. Null: there is none.
const formats::GgmlType* type_of(DType dtype);
/// The type that a tensor of a file has.
const formats::GgmlType* type_of(const formats::TensorEntry& entry);
DType dtype_of(const formats::GgmlType& type);

/// Brings values of `entry` to `type`, which may be its own.
struct Recoding {
  const formats::TensorEntry& entry;
  const formats::GgmlType& type;
  const std::string& where;  // the file, for errors
  ThreadPool& pool;

  bool keeps() const { return type_of(entry) == &type; }
  /// Throws Error(kInput) if one of `count` values, kept as they are, is not finite.
  void check(const std::byte* stored, int64_t count) const;
  /// Decodes `count` stored values, which are whole rows, and encodes them at `out`, on all threads. Throws
  /// Error(kInput) for a value that is not finite, or that the type cannot hold.
  void recode(const std::byte* stored, int64_t count, std::byte* out) const;
};

}  // namespace carousel::model
