// SPDX-License-Identifier: Apache-2.0
// The element encodings of GGUF files: plain numbers, and blocks of 32 or 256 values that share scales. Decoding is by
// whole blocks along a row; the layouts are those of the public format (little-endian, scales in IEEE half).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "carousel/core/dtype.h"

namespace carousel::formats {

/// One encoding. Pointers to it are into a static table and may be compared.
struct GgmlType {
  uint32_t id = 0;         // the encoding's number in files
  const char* name = "";   // "Q4_K"
  int64_t block = 1;       // values per block
  size_t block_bytes = 0;  // bytes per block
  /// The dtype of plain numbers; nothing for blocks.
  std::optional<DType> plain = {};
  /// The dtype of blocks; nothing for plain numbers, and for an encoding that is only recognised.
  std::optional<DType> blocks = {};

  /// Bytes of `count` values, a multiple of block. Nothing on overflow.
  std::optional<size_t> bytes_of(int64_t count) const;
};

/// nullptr: no such id. The result may be an encoding that this build cannot decode.
const GgmlType* find_ggml_type(uint32_t id);
/// By name, as in GgmlType::name; nullptr: unknown.
const GgmlType* find_ggml_type(const std::string& name);
/// The encoding of a plain dtype or of a block type (Q8 and Q4 are Q8_0 and Q4_0 here); nullptr: GGUF has none.
const GgmlType* ggml_type_of(DType dtype);
/// "F32, F16, ...": the types that decode_ggml takes.
std::string decodable_ggml_types();

/// `count` values (a multiple of type.block) to f32. The source may have any alignment. Integers are not decoded.
void decode_ggml(const GgmlType& type, const std::byte* source, int64_t count, float* out);
/// f32 to F32, F16, BF16, or blocks that core/quant_blocks.h encodes; false for another type.
bool encode_ggml(const GgmlType& type, const float* source, int64_t count, std::byte* out);

}  // namespace carousel::formats
