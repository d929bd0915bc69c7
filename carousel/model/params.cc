// SPDX-License-Identifier: Apache-2.0
// Parameters from nowhere and from a seed. checkpoint_params.cc has the parameters of a file.
#include "carousel/model/params.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel::model {

Weight MetaParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                          const Init& init) {
  return weight_for(init, rows, cols, dtype_of_({name, Shape{rows, cols}, init, true, layout}), layout, Memory::meta());
}

Tensor MetaParams::tensor(const std::string&, const Shape& shape, const Init&) {
  return Tensor(shape, DType::kF32, Memory::meta());
}

std::shared_ptr<const Mask> MetaParams::mask(const std::string& name, std::shared_ptr<const Mask> drawn) {
  return mask_of_ ? mask_of_(name, drawn) : drawn;
}

Weight ShapeSource::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                           const Init& init) {
  see_({name, Shape{rows, cols}, init, true, layout});
  return weight_for(init, rows, cols, DType::kF32, layout, Memory::meta());
}

Tensor ShapeSource::tensor(const std::string& name, const Shape& shape, const Init& init) {
  see_({name, shape, init});
  return Tensor(shape, DType::kF32, Memory::meta());
}

std::shared_ptr<const Mask> ShapeSource::mask(const std::string& name, std::shared_ptr<const Mask> drawn) {
  see_({name, Shape{drawn->rows(), drawn->cols()}, Init::entries_of(drawn)});
  return mask_of_ ? mask_of_(name, drawn) : drawn;
}

namespace {

// Gram-Schmidt on normal vectors, each cleared of the others twice so that rounding does not add up.
void draw_orthogonal(Rng& rng, int64_t rows, int64_t cols, float* out) {
  const int64_t count = std::min(rows, cols), size = std::max(rows, cols);
  std::vector<std::vector<double>> basis;
  while (static_cast<int64_t>(basis.size()) < count) {
    std::vector<double> vector(static_cast<size_t>(size));
    for (double& value : vector) value = rng.normal();
    for (size_t pass = 0; pass < 2 * basis.size(); ++pass) {
      const std::vector<double>& other = basis[pass % basis.size()];
      const double along = std::inner_product(vector.begin(), vector.end(), other.begin(), 0.0);
      for (size_t i = 0; i < vector.size(); ++i) vector[i] -= along * other[i];
    }
    const double length = std::sqrt(std::inner_product(vector.begin(), vector.end(), vector.begin(), 0.0));
    for (double& value : vector) value /= length;
    basis.push_back(std::move(vector));
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) {
      const auto row = static_cast<size_t>(i), col = static_cast<size_t>(j);
      out[i * cols + j] = static_cast<float>(rows >= cols ? basis[col][row] : basis[row][col]);
    }
  }
}

void draw_values(const ParamRecord& record, uint64_t seed, float* out) {
  Rng rng(seed, XXH3_64bits(record.name.data(), record.name.size()));
  const int64_t count = record.shape.count();
  const Init& init = record.init;
  if (init.kind == Init::Kind::kOrthogonal) return draw_orthogonal(rng, record.shape[0], record.shape[1], out);
  if (init.kind == Init::Kind::kCopied) {
    CAROUSEL_ASSERT(static_cast<int64_t>(init.values->size()) == count);
    std::copy(init.values->begin(), init.values->end(), out);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    double value = init.a;
    if (init.kind == Init::Kind::kSigns) {
      value = rng.uniform() < init.a ? 1 : -1;
      if (init.values != nullptr && (*init.values)[static_cast<size_t>(i)] == 0) value = 0;
    }
    if (init.kind == Init::Kind::kNormal) value = init.a * rng.normal();
    if (init.kind == Init::Kind::kUniform) value = init.b + init.a * (2 * rng.uniform() - 1);
    if (init.kind == Init::Kind::kLinspace && count > 1) {
      value = init.a + (init.b - init.a) * static_cast<double>(i) / static_cast<double>(count - 1);
    }
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

void draw_param(const ParamRecord& record, uint64_t seed, float* out) {
  if (record.init.kind == Init::Kind::kMask) std::fill(out, out + record.shape.count(), 1.0f);
  if (record.init.kind != Init::Kind::kMask) draw_values(record, seed, out);
  if (record.init.mask) impose_mask(*record.init.mask, out);
}

Weight DrawnParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                           const Init& init) {
  Tensor values(Shape{rows, cols}, DType::kF32);
  draw_param({name, values.shape(), init}, seed_, values.f32());
  Tensor narrowed(values.shape(), dtype_);
  narrow(values.f32(), dtype_, narrowed.raw(), static_cast<size_t>(values.count()));
  Weight weight = weight_for(init, rows, cols, dtype_, layout, *stream_.memory);
  weight.write_rows(stream_, 0, rows, narrowed.raw());
  return weight;
}

Tensor DrawnParams::tensor(const std::string& name, const Shape& shape, const Init& init) {
  Tensor values(shape, DType::kF32);
  draw_param({name, shape, init}, seed_, values.f32());
  return values.to(*stream_.memory);
}

}  // namespace carousel::model
