// SPDX-License-Identifier: Apache-2.0
// The flat arrays, and how they are filled, joined, masked and packed.
#include "carousel/model/trained_params.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "carousel/core/assert.h"

namespace carousel::model {
namespace {

constexpr int64_t kAlignment = 16;  // elements; a cache line

int64_t aligned(int64_t count) { return (count + kAlignment - 1) / kAlignment * kAlignment; }

/// A table that is packed is the head too.
bool is_shared_table(const ParamRecord& record) {
  return record.matrix && record.name == "embeddings.weight" && record.layout == Weight::Layout::kPanels;
}

/// Flat arrays, cut into parameters.
class Flat {
 public:
  Flat(Memory& memory, int64_t count)
      : storage_(std::make_shared<Storage>(memory, static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float))) {}
  Tensor view(int64_t first, const Shape& shape) const {
    return Tensor(storage_, static_cast<size_t>(first) * sizeof(float), shape, DType::kF32);
  }

 private:
  std::shared_ptr<Storage> storage_;
};

void add_to(float* sum, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] += x[i];
}

/// Calls f(sign, value) for every element of a masked matrix.
template <class F>
void for_each_masked(const Mask& mask, float* values, const F& f) {
  std::vector<int8_t> row(static_cast<size_t>(mask.cols()));
  for (int64_t r = 0; r < mask.rows(); ++r, values += mask.cols()) {
    mask.row(r, row.data());
    for (int64_t c = 0; c < mask.cols(); ++c) f(row[static_cast<size_t>(c)], values[c]);
  }
}

void clear_masked(const Mask& mask, float* values) {
  for_each_masked(mask, values, [](int8_t sign, float& value) { value = sign == 0 ? 0 : value; });
}

void keep_signs(const Mask& mask, float* values) {
  for_each_masked(mask, values, [](int8_t sign, float& value) {
    value = sign == 0 ? 0 : sign > 0 ? std::max(value, 0.0f) : std::min(value, 0.0f);
  });
}

}  // namespace

TrainedParams::TrainedParams(ParamSource& source, const Stream& stream, const std::vector<ParamRecord>& records,
                             const IsTrained& is_trained)
    : source_(source), stream_(stream) {
  int64_t masters = 0, gradients = 0;
  for (const ParamRecord& record : records) {
    if (record.init.kind == Init::Kind::kMask) continue;
    TrainedParam param{record.name, record.shape, record.init, record.matrix, 0, {}, {}, {}, true};
    param.trained = !record.init.fixed && (!is_trained || is_trained(record));
    by_name_[record.name] = params_.size();
    params_.push_back(std::move(param));
  }
  // What is trained comes first, so that gradients and moments are ranges of the same numbers.
  for (const bool trained : {true, false}) {
    for (TrainedParam& param : params_) {
      if (param.trained != trained) continue;
      param.first = masters;
      masters += aligned(param.shape.count());
    }
    if (trained) gradients = masters;
  }
  const Flat master_array(*stream.memory, masters), gradient_array(*stream.memory, gradients);
  masters_ = master_array.view(0, {masters});
  gradients_ = gradient_array.view(0, {gradients});
  size_t next = 0;
  for (const ParamRecord& record : records) {
    if (record.init.kind == Init::Kind::kMask) continue;
    TrainedParam& param = params_[next++];
    param.master = master_array.view(param.first, param.shape);
    if (!param.trained) continue;
    param.gradient = gradient_array.view(param.first, param.shape);
    if (is_shared_table(record)) param.table = tables_ = Tensor(param.shape, DType::kF32, *stream.memory);
    if (stream.device() == Device::kMeta) continue;
    trained_.add(param.master, param.gradient.f32(), param.table.defined() ? param.table.f32() : nullptr);
  }
  if (stream.device() == Device::kMeta) trained_.add_all();
}

TrainedParam& TrainedParams::take(const std::string& name, const Shape& shape, const Init& init) {
  CAROUSEL_ASSERT(taken_ < params_.size() && params_[taken_].name == name && params_[taken_].shape == shape);
  params_[taken_].init.mask = init.mask;
  return params_[taken_++];
}

Weight TrainedParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                             const Init& init) {
  const TrainedParam& param = take(name, {rows, cols}, init);
  {
    const Weight values = source_.matrix(name, rows, cols, layout, init);
    if (stream_.device() != Device::kMeta) values.read_rows(0, rows, param.master.f32());
  }
  weights_.push_back(Weight::of_master(stream_, param.master, layout));
  return weights_.back();
}

Tensor TrainedParams::tensor(const std::string& name, const Shape& shape, const Init& init) {
  if (init.kind == Init::Kind::kMask) return mask_entries_[name] = source_.tensor(name, shape, init);
  const TrainedParam& param = take(name, shape, init);
  const Tensor values = source_.tensor(name, shape, init);
  if (stream_.device() != Device::kMeta && values.count() > 0) {
    std::memcpy(param.master.f32(), values.f32(), values.size_bytes());
  }
  return param.master;
}

std::shared_ptr<const Mask> TrainedParams::mask(const std::string& name, std::shared_ptr<const Mask> drawn) {
  return masks_[name] = source_.mask(name, std::move(drawn));
}

bool TrainedParams::form(const Pack& pack) {
  pack(stream_);
  packs_.push_back(pack);
  return true;
}

void TrainedParams::values(const ParamRecord& record, float* out) const {
  const auto copy = [out](const Tensor& from) {
    const Tensor values = from.to_host();
    std::memcpy(out, values.f32(), values.size_bytes());
  };
  if (record.init.kind != Init::Kind::kMask) return copy(params_[by_name_.at(record.name)].master);
  if (const auto entries = mask_entries_.find(record.name); entries != mask_entries_.end())
    return copy(entries->second);
  const Mask& mask = *masks_.at(record.name);
  std::vector<int8_t> row(static_cast<size_t>(mask.cols()));
  for (int64_t r = 0; r < mask.rows(); ++r) {
    mask.row(r, row.data());
    out = std::copy(row.begin(), row.end(), out);
  }
}

void TrainedParams::clear_gradients() {
  for (const Tensor& tensor : {gradients_, tables_}) {
    if (tensor.defined() && tensor.raw() != nullptr) {
      stream_.memory->zero(static_cast<std::byte*>(tensor.raw()), tensor.size_bytes());
    }
  }
}

void TrainedParams::finish_gradients() {
  if (stream_.device() == Device::kMeta) return;
  for (const TrainedParam& param : params_) {
    if (!param.trained) continue;
    if (param.table.defined()) add_to(param.gradient.f32(), param.table.f32(), param.table.count());
    if (param.init.mask != nullptr) clear_masked(*param.init.mask, param.gradient.f32());
  }
}

void TrainedParams::fix_masked(const Tensor& values, const Tensor& mask) {
  if (stream_.device() == Device::kMeta) return;
  CAROUSEL_ASSERT(values.shape() == mask.shape());
  for (int64_t i = 0; i < values.count(); ++i) {
    if (mask.f32()[i] == 0) fixed_.push_back({values.f32() + i, values.f32()[i]});
  }
}

void TrainedParams::finish_step() const {
  for (const Fixed& fixed : fixed_) *fixed.element = fixed.value;
  for (const TrainedParam& param : params_) {
    if (!param.trained || stream_.device() == Device::kMeta) continue;
    if (param.init.mask != nullptr && param.init.mask->polarity()) keep_signs(*param.init.mask, param.master.f32());
    const auto least = static_cast<float>(param.init.least);
    for (int64_t i = 0; std::isfinite(least) && i < param.master.count(); ++i) {
      param.master.f32()[i] = std::max(param.master.f32()[i], least);
    }
  }
  repack();
}

void TrainedParams::repack() const {
  for (const Weight& weight : weights_) weight.repack(stream_);
  for (const Pack& pack : packs_) pack(stream_);
}

}  // namespace carousel::model
