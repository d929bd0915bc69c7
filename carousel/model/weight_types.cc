// SPDX-License-Identifier: Apache-2.0
// Chooses the types that matrices are held in.
#include <string>

#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/params.h"

namespace carousel::model {

DType held_dtype(const formats::TensorEntry& entry) {
  if (entry.ggml == nullptr) return entry.dtype;
  return source_dtype(entry) == DType::kQ4 ? DType::kQ4 : DType::kQ8;
}

DType source_dtype(const formats::TensorEntry& entry) {
  if (entry.ggml == nullptr) return entry.dtype;
  const std::string name = entry.ggml->name;
  return name == "Q8_0" ? DType::kQ8 : name == "Q4_0" ? DType::kQ4 : DType::kF32;
}

std::optional<DType> WeightTypes::of(const std::string& name, Weight::Layout layout, const Init& init) const {
  if (name == "lm_head.weight") return head;
  if (name == "embeddings.weight") return layout == Weight::Layout::kPanels && head ? head : embeddings;
  return init.gate ? gates : body;
}

DType WeightTypes::held(const std::string& name, int64_t cols, Weight::Layout layout, const Init& init,
                        DType stored) const {
  const DType wanted = of(name, layout, init).value_or(stored);
  return is_block(wanted) && cols % static_cast<int64_t>(kBlockValues) != 0 ? stored : wanted;
}

bool WeightTypes::maps(const formats::TensorEntry& entry, bool permuted, const Init& init, DType held) const {
  return mapped && entry.file != nullptr && !permuted && init.mask == nullptr && source_dtype(entry) == held &&
         (entry.ggml == nullptr || is_block(held));
}

}  // namespace carousel::model
