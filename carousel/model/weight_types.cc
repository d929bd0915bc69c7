// SPDX-License-Identifier: Apache-2.0
// Chooses the types that matrices are held in.
#include <string>

#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/params.h"

namespace carousel::model {

DType held_dtype(const formats::TensorEntry& entry) {
  return entry.ggml != nullptr && entry.ggml->blocks ? *entry.ggml->blocks : entry.dtype;
}

std::optional<DType> WeightTypes::of(const std::string& name, Weight::Layout layout, const Init& init) const {
  if (name == "lm_head.weight") return head;
  if (name == "embeddings.weight") return layout == Weight::Layout::kPanels && head ? head : embeddings;
  return init.gate ? gates : body;
}

DType WeightTypes::held(const std::string& name, int64_t cols, Weight::Layout layout, const Init& init,
                        DType stored) const {
  const DType wanted = of(name, layout, init).value_or(stored);
  const DType held = cols % static_cast<int64_t>(block_values(wanted)) != 0 ? stored : wanted;
  const bool simple = init.mask != nullptr || simple_blocks;
  return simple && is_block(held) && !is_simple_block(held) ? DType::kQ8 : held;
}

bool WeightTypes::maps(const formats::TensorEntry& entry, bool permuted, const Init& init, DType held) const {
  return mapped && entry.file != nullptr && !permuted && init.mask == nullptr && held_dtype(entry) == held &&
         (entry.ggml == nullptr || is_block(held));
}

}  // namespace carousel::model
