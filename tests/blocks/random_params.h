// SPDX-License-Identifier: Apache-2.0
// What tests of every registry entry run on: a stack of one block, or of all, and parameters where every term matters.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "carousel/blocks/block.h"
#include "carousel/core/rng.h"
#include "carousel/model/stack.h"

namespace carousel {

constexpr int64_t kWidth = 32;  // divides into the default 8 heads of every block

// "mlstm_wired" is the block with most weights of every projection masked, and the others of fixed signs.
inline const std::string kWired = "_wired";
inline const Json kWirings = {
    {"wiring", {{"*", {{"type", "random"}, {"sparsity", 0.9}, {"seed", 1}, {"polarity", true}}}}}};

// Values at a scale where every term matters; the blocks' own initialisations zero some gates.
class RandomParams : public ParamSource {
 public:
  RandomParams(const Stream& stream, DType dtype) : stream_(stream), dtype_(dtype) {}
  Weight matrix(const std::string&, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const Tensor values = draw(Shape{rows, cols}, 0, 1 / std::sqrt(static_cast<double>(cols)));
    if (init.mask) impose_mask(*init.mask, values.f32());
    Weight weight = weight_for(init, rows, cols, dtype_, layout, *stream_.memory);
    weight.write_rows(stream_, 0, rows, values.raw(), DType::kF32);
    return weight;
  }
  Tensor tensor(const std::string& name, const Shape& shape, const Init&) override {
    const bool scale = name.find("norm") != std::string::npos && name.ends_with("weight");
    return draw(shape, scale ? 1 : 0, scale ? 0.3 : 0.7).to(*stream_.memory);
  }

 private:
  Tensor draw(const Shape& shape, double mean, double deviation) {
    Tensor values(shape, DType::kF32);
    for (int64_t i = 0; i < values.count(); ++i) values.f32()[i] = static_cast<float>(mean + deviation * rng_.normal());
    return values;
  }
  const Stream& stream_;
  DType dtype_;
  Rng rng_{17};
};

/// One sublayer of this block; "all": one of every entry, in their order. "_wired" behind it: see kWired.
inline model::ModelConfig stack_of(const std::string& block) {
  model::ModelConfig config;
  config.hidden_size = kWidth;
  config.num_layers = 1;
  const bool wired = block.ends_with(kWired);
  const std::string name = block.substr(0, block.size() - (wired ? kWired.size() : 0));
  const Json options = wired ? kWirings : Json::object();
  std::vector<std::string> blocks{name};
  if (name == "all") {
    blocks.clear();
    for (const blocks::Entry& entry : blocks::registry()) blocks.emplace_back(entry.name);
  }
  for (size_t i = 0; i < blocks.size(); ++i) {
    config.sublayers.push_back({static_cast<int64_t>(i), "layers." + std::to_string(i) + "." + blocks[i], blocks[i],
                                options, model::NormConfig{}});
  }
  return config;
}

}  // namespace carousel
