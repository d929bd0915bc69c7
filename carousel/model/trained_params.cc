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

/// Flat arrays, cut into parameters. On meta a part has a storage of its own in `memory`, by which Trained knows it.
class Flat {
 public:
  Flat(Memory& memory, int64_t count)
      : memory_(memory),
        storage_(std::make_shared<Storage>(memory.device() == Device::kMeta ? Memory::meta() : memory,
                                           static_cast<size_t>(std::max<int64_t>(count, 1)) * sizeof(float))) {}
  Tensor view(int64_t first, const Shape& shape) const {
    return Tensor(storage_, static_cast<size_t>(first) * sizeof(float), shape, DType::kF32);
  }
  Tensor part(int64_t first, const Shape& shape) const {
    return memory_.device() == Device::kMeta ? Tensor(shape, DType::kF32, memory_) : view(first, shape);
  }

 private:
  Memory& memory_;
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
                             const TrainedChoice& choice)
    : source_(source), stream_(stream), adapter_(choice.adapter) {
  const bool adapts = !adapter_.modules.empty();
  for (const ParamRecord& record : records) {
    if (record.init.kind == Init::Kind::kMask) continue;
    TrainedParam param{record.name, record.shape, record.init, record.matrix, 0, {}, {}, {}, true};
    param.trained = !adapts && !record.init.fixed && (!choice.is_trained || choice.is_trained(record));
    by_name_[record.name] = params_.size();
    params_.push_back(std::move(param));
  }
  for (const AdapterModule& module : adapter_.modules) {
    const double cols = static_cast<double>(module.cols);  // A as PEFT draws it (Kaiming, a = sqrt(5)); B is zero
    const Shape a = {adapter_.rank, module.cols}, b = {module.rows, adapter_.rank};
    params_.push_back({module.a_name(), a, Init::uniform(1 / std::sqrt(cols)), true, 0, {}, {}, {}, true});
    params_.push_back({module.b_name(), b, Init::constant(0), true, 0, {}, {}, {}, true});
  }
  place(records);
  if (adapts) place_adapter(records, choice.adapter_values);
}

/// Cuts the flat arrays into parameters.
void TrainedParams::place(const std::vector<ParamRecord>& records) {
  int64_t masters = 0, gradients = 0;
  // What is trained comes first, so that gradients and moments are ranges of the same numbers.
  for (const bool trained : {true, false}) {
    for (TrainedParam& param : params_) {
      if (param.trained != trained) continue;
      param.first = masters;
      masters += aligned(param.shape.count());
    }
    if (trained) gradients = masters;
  }
  const Flat master_array(*stream_.memory, masters), gradient_array(*stream_.memory, gradients);
  masters_ = master_array.view(0, {masters});
  gradients_ = gradient_array.view(0, {gradients});
  const auto shared = std::find_if(records.begin(), records.end(), is_shared_table);
  for (TrainedParam& param : params_) {
    param.master = master_array.part(param.first, param.shape);
    if (!param.trained) continue;
    param.gradient = gradient_array.view(param.first, param.shape);
    if (shared != records.end() && shared->name == param.name) {
      param.table = tables_ = Tensor(param.shape, DType::kF32, *stream_.memory);
    }
    trained_.add(param.master, param.gradient.f32(), param.table.defined() ? param.table.f32() : nullptr);
  }
}

void TrainedParams::place_adapter(const std::vector<ParamRecord>& records, const AdapterValues& values) {
  size_t next = params_.size() - 2 * adapter_.modules.size();
  for (const AdapterModule& module : adapter_.modules) {
    Low low;
    low.a = next++;
    low.b = next++;
    const Flat sums(*stream_.memory, module.rows * module.cols);
    low.sums = sums.view(0, {module.rows, module.cols});
    int64_t first = 0;
    for (const size_t i : module.records) {
      const ParamRecord& record = records[i];
      low.records.push_back(by_name_.at(record.name));
      const Tensor part = sums.part(first, record.shape);
      first += record.shape.count();
      sums_[record.name] = part;
      trained_.add(part, part.f32());
    }
    for (const size_t i : {low.a, low.b}) {
      const TrainedParam& param = params_[i];
      const ParamRecord record{param.name, param.shape, param.init, true};
      if (stream_.device() != Device::kMeta) values(record, param.master.f32());
    }
    lows_.push_back(std::move(low));
  }
}

ops::LowRank TrainedParams::low_rank(const Low& low) const {
  return {params_[low.a].master, params_[low.b].master, adapter_.scale()};
}

void TrainedParams::sum(const Low& low) const {
  auto* to = static_cast<std::byte*>(low.sums.raw());
  for (const size_t i : low.records) {
    const Tensor& base = params_[i].master;
    Memory::copy(base.memory(), static_cast<const std::byte*>(base.raw()), low.sums.memory(), to, base.size_bytes());
    to += base.size_bytes();
  }
  ops::add_low_rank(stream_, low_rank(low), low.sums);
}

NamedTensors TrainedParams::adapter_tensors(bool gradients) const {
  NamedTensors out;
  for (const Low& low : lows_) {
    for (const size_t i : {low.a, low.b}) {
      const TrainedParam& param = params_[i];
      out.push_back({kAdapterPrefix + param.name, (gradients ? param.gradient : param.master).to_host()});
    }
  }
  return out;
}

TrainedParam& TrainedParams::take(const std::string& name, const Shape& shape, const Init& init) {
  CAROUSEL_ASSERT(taken_ + 2 * lows_.size() < params_.size() && params_[taken_].name == name &&
                  params_[taken_].shape == shape);
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
  // With an adapter the sum is packed, at the first repack(): its parts may not all be here yet.
  const auto sum = sums_.find(name);
  weights_.push_back(Weight::of_master(stream_, sum != sums_.end() ? sum->second : param.master, layout));
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

bool TrainedParams::is_trained(const std::string& name) const {
  const auto found = by_name_.find(name);
  return found != by_name_.end() && params_[found->second].trained;
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

size_t TrainedParams::gradient_bytes() const {
  return gradients_.size_bytes() + (tables_.defined() ? tables_.size_bytes() : 0);
}

size_t TrainedParams::sum_bytes() const {
  size_t bytes = 0;
  for (const Low& low : lows_) bytes += low.sums.size_bytes();
  return bytes;
}

void TrainedParams::clear_gradients() {
  const auto clear = [&](const Tensor& tensor) {
    if (!tensor.defined() || tensor.raw() == nullptr) return;
    stream_.memory->zero(static_cast<std::byte*>(tensor.raw()), tensor.size_bytes());
  };
  clear(gradients_);
  clear(tables_);
  for (const Low& low : lows_) clear(low.sums);
}

void TrainedParams::finish_gradients() {
  if (stream_.device() == Device::kMeta) return;
  for (const Low& low : lows_) {
    ops::low_rank_backward(stream_, low_rank(low), low.sums, params_[low.a].gradient, params_[low.b].gradient);
  }
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
  if (stream_.device() != Device::kMeta) {
    for (const Low& low : lows_) sum(low);
  }
  for (const Weight& weight : weights_) weight.repack(stream_);
  for (const Pack& pack : packs_) pack(stream_);
}

}  // namespace carousel::model
