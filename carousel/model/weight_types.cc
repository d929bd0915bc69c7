// SPDX-License-Identifier: Apache-2.0
// The types matrices are held in, by choice, and the memory they then take.
#include <string>

#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/load.h"
#include "carousel/model/params.h"

namespace carousel::model {
namespace {

// Counts what the weights take in memory as `types` has them held.
class HeldSource : public ParamSource {
 public:
  HeldSource(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
             const std::string& where)
      : config_(config), checkpoint_(checkpoint), types_(types), names_(spelling_of(config, &checkpoint, where)) {}
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const Stored found = stored(name);
    const DType dtype = types_.held(name, cols, layout, init, found.entry ? held_dtype(*found.entry) : DType::kF32);
    Weight weight = weight_for(init, rows, cols, dtype, layout, Device::kMeta);
    if (!found.entry || !types_.maps(*found.entry, found.permuted, init, dtype)) bytes += weight.size_bytes();
    return weight;
  }
  Tensor tensor(const std::string&, const Shape& shape, const Init&) override {
    Tensor values(shape, DType::kF32, Device::kMeta);
    bytes += values.size_bytes();
    return values;
  }
  size_t bytes = 0;

 private:
  struct Stored {
    const formats::TensorEntry* entry = nullptr;
    bool permuted = false;
  };
  Stored stored(const std::string& name) const {
    for (const TensorSource& source : names_.sources(config_, name)) {
      const formats::TensorEntry* entry = checkpoint_.find(source.file_name);
      if (entry != nullptr && entry->is_weight()) return {entry, source.permuted.has_value()};
    }
    return {};
  }
  const ModelConfig& config_;
  const formats::Checkpoint& checkpoint_;
  const WeightTypes& types_;
  TensorNames names_;
};

}  // namespace

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

size_t held_bytes(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
                  const std::string& where) {
  HeldSource source(config, checkpoint, types, where);
  declare_params(config, source, where);
  return source.bytes;
}

}  // namespace carousel::model
