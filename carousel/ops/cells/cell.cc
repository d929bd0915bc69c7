// SPDX-License-Identifier: Apache-2.0
// Maps of continuous-time cells, packed so that lanes run along their outputs.
#include "carousel/ops/cells/cell.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/ops/packing.h"

namespace carousel::ops {

CellMap::CellMap(int64_t inputs, int64_t units, int64_t parts, Memory& memory)
    : inputs_(inputs),
      units_(units),
      weight_(Shape{inputs, parts * cell_pad(units)}, DType::kF32, memory),
      bias_(Shape{parts * cell_pad(units)}, DType::kF32, memory) {}

void CellMap::add(int64_t part, int64_t first, const Tensor& weight, int64_t first_row, const Tensor& mask) {
  CAROUSEL_ASSERT(first + weight.dim(1) <= inputs_ && first_row + units_ <= weight.dim(0));
  CAROUSEL_ASSERT(!mask.defined() || mask.shape() == weight.shape());
  masters_.push_back({weight, mask, part, first, first_row});
}

void CellMap::add_bias(int64_t part, const Tensor& bias, int64_t first_row) {
  CAROUSEL_ASSERT(bias.shape().rank() == 1 && first_row + units_ <= bias.dim(0));
  masters_.push_back({bias, {}, part, 0, first_row});
}

void CellMap::pack_weight(const Master& master, float* packed) const {
  const int64_t columns = master.values.dim(1);
  const Tensor values = master.values.to_host(), mask = master.mask.defined() ? master.mask.to_host() : Tensor();
  float* out = packed + master.part * cell_pad(units_);  // column j of it is unit j
  for (int64_t j = 0; j < units_; ++j) {
    const int64_t row = (master.first_row + j) * columns;
    for (int64_t k = 0; k < columns; ++k) {
      const bool kept = !mask.defined() || mask.f32()[row + k] != 0;
      out[(master.first + k) * outputs() + j] = kept ? values.f32()[row + k] : 0.0f;
    }
  }
}

void CellMap::pack(const Stream& /*stream*/) const {
  if (!defined() || weight_.raw() == nullptr) return;
  const Packing weight(weight_), bias(bias_);
  for (const Master& master : masters_) {
    if (master.values.shape().rank() == 2) {
      pack_weight(master, weight.f32());
    } else {
      const Tensor values = master.values.to_host();
      std::copy_n(values.f32() + master.first_row, units_, bias.f32() + master.part * cell_pad(units_));
    }
  }
  weight.finish();
  bias.finish();
}

Tensor CellMap::trained(const Tape& tape) const {
  for (const Master& master : masters_) {
    if (tape.needs(master.values)) return master.values;
  }
  return {};
}

template <class F>
void CellMap::each_element(const Grads& grads, const Tensor& packed, F&& f) const {
  for (const Master& master : masters_) {
    float* const gradient = grads.parameter(master.values);
    if (gradient == nullptr || packed.raw() == nullptr) continue;
    const bool is_bias = master.values.shape().rank() == 1;
    const int64_t columns = is_bias ? 1 : master.values.dim(1);
    for (int64_t j = 0; j < units_; ++j) {
      const int64_t row = (master.first_row + j) * columns;
      for (int64_t k = 0; k < columns; ++k) {
        if (master.mask.defined() && master.mask.f32()[row + k] == 0) continue;
        const int64_t input = is_bias ? inputs_ : master.first + k;
        f(gradient[row + k], packed.f32()[input * outputs() + master.part * cell_pad(units_) + j]);
      }
    }
  }
}

Tensor CellMap::gradient(Ctx& ctx, const Grads& grads) const {
  const auto is_trained = [&](const Master& master) { return grads.parameter(master.values) != nullptr; };
  if (!defined() || std::none_of(masters_.begin(), masters_.end(), is_trained)) return {};
  const Tensor packed = ctx.arena.zeros({inputs_ + 1, outputs()});
  each_element(grads, packed, [](float& held, float& at) { at = held; });
  return packed;
}

void CellMap::replace_gradient(const Grads& grads, const Tensor& packed) const {
  if (packed.defined()) each_element(grads, packed, [](float& held, float& at) { held = at; });
}

CellRow::CellRow(const Tensor& values)
    : values_(values), padded_(Shape{cell_pad(values.count())}, DType::kF32, values.memory()) {}

void CellRow::pack(const Stream& /*stream*/) const {
  if (padded_.raw() == nullptr) return;
  const Packing padded(padded_);
  std::copy_n(values_.to_host().f32(), values_.count(), padded.f32());
  padded.finish();
}

CellMap memory_map(const Tensor& input, const Tensor& bias, const Tensor& recurrent) {
  const int64_t inputs = input.dim(1), units = recurrent.dim(1);
  CellMap map(inputs + units, units, 4, input.memory());
  for (int64_t gate = 0; gate < 4; ++gate) {
    map.add(gate, 0, input, gate * units);
    map.add(gate, inputs, recurrent, gate * units);
    map.add_bias(gate, bias, gate * units);
  }
  return map;
}

void check_elapsed(const char* where, const Seqs& seqs) {
  if (!seqs.dt.defined()) return;
  check_shape(where, "dt", seqs.dt, {seqs.rows()});
  check_dtype(where, "dt", seqs.dt, DType::kF32);
}

}  // namespace carousel::ops
