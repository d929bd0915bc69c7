// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/rounded_params.h"

#include <algorithm>
#include <vector>

namespace carousel::model {
namespace {

constexpr int64_t kSliceElements = int64_t{1} << 20;

}  // namespace

Weight RoundedParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                             const Init& init) {
  Weight read = source_.matrix(name, rows, cols, layout, init);
  const bool wider = read.dtype() == DType::kF32 || read.dtype() == DType::kF16;
  if (!wider || read.device() == Device::kMeta || init.keep_f32) return read;
  Weight weight = weight_for(init, rows, cols, dtype_, layout);
  const int64_t slice = std::max<int64_t>(1, kSliceElements / cols / Weight::kPanelRows) * Weight::kPanelRows;
  std::vector<float> values(static_cast<size_t>(std::min(slice, rows) * cols));
  for (int64_t first = 0; first < rows; first += slice) {
    const int64_t count = std::min(slice, rows - first);
    read.read_rows(first, count, values.data());
    weight.write_rows(stream_, first, count, values.data(), DType::kF32);
  }
  return weight;
}

Tensor RoundedParams::tensor(const std::string& name, const Shape& shape, const Init& init) {
  Tensor values = source_.tensor(name, shape, init);
  if (values.raw() == nullptr || init.keep_f32) return values;
  const auto count = static_cast<size_t>(values.count());
  std::vector<std::byte> narrowed(count * dtype_size(dtype_));
  narrow(values.f32(), dtype_, narrowed.data(), count);
  widen(narrowed.data(), dtype_, values.f32(), count);
  return values;
}

}  // namespace carousel::model
