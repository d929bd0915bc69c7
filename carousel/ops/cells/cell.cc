// SPDX-License-Identifier: Apache-2.0
// Maps of continuous-time cells, packed so that lanes run along their outputs.
#include "carousel/ops/cells/cell.h"

#include "carousel/core/error.h"

namespace carousel::ops {

CellMap::CellMap(int64_t inputs, int64_t units, int64_t parts, Memory& memory)
    : inputs_(inputs),
      units_(units),
      weight_(Shape{inputs, parts * cell_pad(units)}, DType::kF32, memory),
      bias_(Shape{parts * cell_pad(units)}, DType::kF32, memory) {}

void CellMap::write(int64_t part, int64_t first, const Tensor& weight, int64_t first_row, const Tensor& mask) {
  const int64_t columns = weight.dim(1);
  CAROUSEL_ASSERT(first + columns <= inputs_ && first_row + units_ <= weight.dim(0));
  CAROUSEL_ASSERT(!mask.defined() || mask.shape() == weight.shape());
  if (weight_.raw() == nullptr) return;
  float* out = weight_.f32() + part * cell_pad(units_);  // column j of it is unit j
  for (int64_t j = 0; j < units_; ++j) {
    const int64_t row = (first_row + j) * columns;
    for (int64_t k = 0; k < columns; ++k) {
      const bool kept = !mask.defined() || mask.f32()[row + k] != 0;
      out[(first + k) * outputs() + j] = kept ? weight.f32()[row + k] : 0.0f;
    }
  }
}

void CellMap::write_bias(int64_t part, const Tensor& bias, int64_t first_row) {
  CAROUSEL_ASSERT(first_row + units_ <= bias.dim(0));
  if (bias_.raw() == nullptr) return;
  for (int64_t j = 0; j < units_; ++j) bias_.f32()[part * cell_pad(units_) + j] = bias.f32()[first_row + j];
}

CellMap memory_map(const Tensor& input, const Tensor& bias, const Tensor& recurrent) {
  const int64_t inputs = input.dim(1), units = recurrent.dim(1);
  CellMap map(inputs + units, units, 4, input.memory());
  for (int64_t gate = 0; gate < 4; ++gate) {
    map.write(gate, 0, input, gate * units);
    map.write(gate, inputs, recurrent, gate * units);
    map.write_bias(gate, bias, gate * units);
  }
  return map;
}

void check_elapsed(const char* where, const Seqs& seqs) {
  if (!seqs.dt.defined()) return;
  check_shape(where, "dt", seqs.dt, {seqs.rows()});
  check_dtype(where, "dt", seqs.dt, DType::kF32);
}

}  // namespace carousel::ops
