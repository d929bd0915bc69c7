// SPDX-License-Identifier: Apache-2.0
// A task decodes some thousand values to floats and encodes them: whole blocks of both types.
#include "carousel/model/recoding.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/finite.h"

namespace carousel::model {
namespace {

[[noreturn]] void refuse(const Recoding& recoding) {
  fail(ErrorKind::kInput, "{}: \"{}\" holds a value that is not finite, or beyond what {} can hold", recoding.where,
       recoding.entry.name, dtype_name(dtype_of(recoding.type)));
}

}  // namespace

const formats::GgmlType* type_of(DType dtype) {
  return formats::ggml_type_of(dtype == DType::kU8 || dtype == DType::kBool ? DType::kI8 : dtype);
}
const formats::GgmlType* type_of(const formats::TensorEntry& entry) {
  return entry.ggml != nullptr ? entry.ggml : type_of(entry.dtype);
}
DType dtype_of(const formats::GgmlType& type) { return type.plain ? *type.plain : *type.blocks; }

void Recoding::check(const std::byte* stored, int64_t count) const {
  if (first_not_finite(stored, dtype_of(type), count)) refuse(*this);
}

void Recoding::recode(const std::byte* stored, int64_t count, std::byte* out) const {
  constexpr int64_t kTask = 1 << 14;  // values, a multiple of every block
  std::atomic<bool> good{true};
  parallel_for(pool, (count + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t begin = task * kTask, values = std::min(kTask, count - begin);
    std::vector<float> wide(static_cast<size_t>(values));
    entry.to_f32(stored + entry.bytes_of(begin), values, wide.data());
    if (!fits(wide.data(), wide.size(), dtype_of(type))) return good.store(false);
    CAROUSEL_ASSERT(formats::encode_ggml(type, wide.data(), values, out + *type.bytes_of(begin)));
  });
  if (!good.load()) refuse(*this);
}

}  // namespace carousel::model
