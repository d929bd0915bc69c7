// SPDX-License-Identifier: Apache-2.0
// Chooses the types that matrices are held in.
#include <string>

#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/params.h"
#include "carousel/ops/kernel.h"

namespace carousel::model {

DType held_dtype(const formats::TensorEntry& entry) {
  return entry.ggml != nullptr && entry.ggml->blocks ? *entry.ggml->blocks : entry.dtype;
}

std::optional<DType> fitting_dtype(DType wanted, int64_t cols) {
  const auto whole = [&](DType dtype) { return cols % static_cast<int64_t>(block_values(dtype)) == 0; };
  if (whole(wanted)) return wanted;
  const DType small = wanted == DType::kQ4K ? DType::kQ50 : wanted == DType::kQ5K ? DType::kQ51 : DType::kQ8;
  if (block_values(wanted) == kMostBlockValues && whole(small)) return small;
  return std::nullopt;
}

std::optional<DType> WeightTypes::of(const std::string& name, Weight::Layout layout, const Init& init) const {
  const auto type = [&]() -> std::optional<DType> {
    if (const auto found = by_name.find(name); found != by_name.end()) return found->second;
    if (name == "lm_head.weight") return head;
    if (name == "embeddings.weight") return layout == Weight::Layout::kPanels && head ? head : embeddings;
    return init.gate ? gates : body;
  }();
  if (!type || !init.mask || !is_block(*type) || is_simple_block(*type)) return type;
  return *type == DType::kQ4K ? DType::kQ4 : DType::kQ8;
}

DType WeightTypes::held(const std::string& name, int64_t cols, Weight::Layout layout, const Init& init,
                        DType stored) const {
  const std::optional<DType> wanted = of(name, layout, init);
  const DType held = wanted ? fitting_dtype(*wanted, cols).value_or(stored) : stored;
  const bool simple = init.mask != nullptr || simple_blocks;
  return simple && is_block(held) && !is_simple_block(held) ? DType::kQ8 : held;
}

WeightTypes WeightTypes::in(const Memory& memory) const {
  WeightTypes types = *this;
  types.simple_blocks = !kernel_traits(memory).all_blocks;
  return types;
}

bool WeightTypes::maps(const formats::TensorEntry& entry, bool permuted, const Init& init, DType held) const {
  return mapped && entry.file != nullptr && !permuted && init.mask == nullptr && held_dtype(entry) == held &&
         (entry.ggml == nullptr || is_block(held));
}

}  // namespace carousel::model
