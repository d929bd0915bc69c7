// SPDX-License-Identifier: Apache-2.0
// The types of GGUF metadata values and their bytes in the file. Private to the gguf*.cc of this folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "carousel/core/json.h"

namespace carousel::formats {

enum GgufKind : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
  kKinds,
};
inline constexpr const char* kKindNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                             "bool", "string", "array", "u64", "i64", "f64"};
inline constexpr size_t kKindBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

template <class T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

/// Whether a text may stand in a file: the format's strings are UTF-8.
bool is_utf8(std::string_view text);

/// A number or bool as JSON; u64 beyond int64 stays unsigned there.
Json gguf_scalar(uint32_t kind, const std::byte* bytes);

}  // namespace carousel::formats
