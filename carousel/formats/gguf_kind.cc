// SPDX-License-Identifier: Apache-2.0
// The types of GGUF metadata: their sizes, and their values as JSON and C++.
#include "carousel/formats/gguf_kind.h"

#include <charconv>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/formats/gguf.h"

namespace carousel::formats {
namespace {

constexpr size_t kMaxListed = 8192;  // elements of an array that is also among the values

bool is_integer(uint32_t kind) { return kind <= kI32 || kind == kBool || kind == kU64 || kind == kI64; }

int64_t integer_at(uint32_t kind, const std::byte* bytes) {
  switch (kind) {
    case kU8:
    case kBool:
      return load<uint8_t>(bytes);
    case kI8:
      return load<int8_t>(bytes);
    case kU16:
      return load<uint16_t>(bytes);
    case kI16:
      return load<int16_t>(bytes);
    case kU32:
      return load<uint32_t>(bytes);
    case kI32:
      return load<int32_t>(bytes);
    default:
      return load<int64_t>(bytes);
  }
}

// The shortest decimal that gives this float: 1e-6 stays 1e-6, in a config written from it too.
double shortest(float value) {
  if (!std::isfinite(value)) return value;
  const std::string text = fmt::format("{}", value);
  double out = value;
  std::from_chars(text.data(), text.data() + text.size(), out);
  return out;
}

}  // namespace

bool is_utf8(std::string_view text) {
  try {
    static_cast<void>(Json(text).dump());
  } catch (const Json::exception&) {
    return false;
  }
  return true;
}

Json gguf_scalar(uint32_t kind, const std::byte* bytes) {
  if (kind == kBool) return load<uint8_t>(bytes) != 0;
  if (kind == kF32) return shortest(load<float>(bytes));
  if (kind == kF64) return load<double>(bytes);
  if (kind == kU64) return load<uint64_t>(bytes);
  return integer_at(kind, bytes);
}

const GgufArray* GgufMetadata::array(const std::string& key) const {
  const auto it = arrays.find(key);
  return it == arrays.end() ? nullptr : &it->second;
}

std::vector<std::string_view> GgufArray::strings() const {
  if (type_ != kString) fail(ErrorKind::kInput, "{} is an array of {}, expected strings", where_, kKindNames[type_]);
  std::vector<std::string_view> out;
  out.reserve(count_);
  const std::byte* next = bytes_.data();  // lengths were checked when the file was opened
  for (uint64_t i = 0; i < count_; ++i) {
    const auto length = load<uint64_t>(next);
    out.emplace_back(reinterpret_cast<const char*>(next) + sizeof length, length);
    next += sizeof length + length;
  }
  return out;
}

std::vector<int64_t> GgufArray::integers() const {
  if (!is_integer(type_)) {
    fail(ErrorKind::kInput, "{} is an array of {}, expected integers", where_, kKindNames[type_]);
  }
  std::vector<int64_t> out;
  out.reserve(count_);
  for (uint64_t i = 0; i < count_; ++i) out.push_back(integer_at(type_, bytes_.data() + i * kKindBytes[type_]));
  return out;
}

std::vector<float> GgufArray::numbers() const {
  if (type_ == kString) fail(ErrorKind::kInput, "{} is an array of string, expected numbers", where_);
  std::vector<float> out;
  out.reserve(count_);
  for (uint64_t i = 0; i < count_; ++i) {
    const std::byte* bytes = bytes_.data() + i * kKindBytes[type_];
    out.push_back(type_ == kF32   ? load<float>(bytes)
                  : type_ == kF64 ? static_cast<float>(load<double>(bytes))
                                  : static_cast<float>(integer_at(type_, bytes)));
  }
  return out;
}

bool GgufArray::listed() const { return type_ != kString && count_ <= kMaxListed; }

Json GgufArray::list() const {
  Json out = Json::array();
  for (uint64_t i = 0; i < count_; ++i) out.push_back(gguf_scalar(type_, bytes_.data() + i * kKindBytes[type_]));
  return out;
}

}  // namespace carousel::formats
