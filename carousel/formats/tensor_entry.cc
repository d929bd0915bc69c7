// SPDX-License-Identifier: Apache-2.0
// One tensor of a file: its bytes as a view, a copy, or f32 values.
#include <algorithm>
#include <cstring>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {
void TensorEntry::set_type(const GgmlType& type) {
  dtype = type.plain.value_or(DType::kU8);
  ggml = type.plain ? nullptr : &type;
}

std::string TensorEntry::type_name() const { return ggml != nullptr ? ggml->name : std::string(dtype_name(dtype)); }

bool TensorEntry::is_weight() const {
  if (ggml != nullptr) return ggml->blocks.has_value();
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || is_block(dtype);
}

size_t TensorEntry::bytes_of(int64_t count) const {
  if (ggml == nullptr) return dtype_bytes(dtype, static_cast<size_t>(count));
  CAROUSEL_ASSERT(count % ggml->block == 0);
  return *ggml->bytes_of(count);
}

void TensorEntry::to_f32(const std::byte* source, int64_t count, float* out) const {
  CAROUSEL_ASSERT(is_weight() && count >= 0);
  if (ggml == nullptr) return widen(source, dtype, out, static_cast<size_t>(count));
  decode_ggml(*ggml, source, count, out);
}

Tensor TensorEntry::view() const {
  if (ggml != nullptr) return load();
  if (!is_block(dtype) && reinterpret_cast<uintptr_t>(bytes) % dtype_size(dtype) != 0) return load();
  return Tensor::over(file, bytes, shape, dtype);
}

Tensor TensorEntry::load() const {
  if (ggml != nullptr) {
    if (!is_weight()) fail(ErrorKind::kInput, "\"{}\": type {} cannot be decoded", name, type_name());
    Tensor values(shape, DType::kF32);
    to_f32(bytes, shape.count(), values.f32());
    return values;
  }
  Tensor copy(shape, dtype);
  if (size_bytes > 0) std::memcpy(copy.raw(), bytes, size_bytes);
  return copy;
}

void TensorEntry::prefetch() const {
  if (file) file->prefetch(bytes, size_bytes);
}
void TensorEntry::release() const {
  if (file) file->release(bytes, size_bytes);
}

std::optional<int64_t> TensorEntry::first_not_finite() const {
  return carousel::first_not_finite(bytes, ggml != nullptr && ggml->blocks ? *ggml->blocks : dtype, shape.count());
}

}  // namespace carousel::formats
