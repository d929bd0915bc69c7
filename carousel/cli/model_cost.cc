// SPDX-License-Identifier: Apache-2.0
#include "carousel/cli/model_cost.h"

#include <cmath>

#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/params.h"
#include "carousel/ops/params.h"

namespace carousel::cli {
namespace {

// Hands out shapes only and counts what they would take. Of the experts a token takes the chosen share.
class CostSource : public ParamSource {
 public:
  CostSource(const ModelFiles& files, const model::WeightTypes& types) : files_(files), types_(types) {}

  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const DType dtype = types_.held(name, cols, layout, init, files_.dtype_of(name));
    const Weight weight = weight_for(init, rows, cols, dtype, layout, Device::kMeta);
    const int64_t live = init.mask ? note_wired(name, init) : rows * cols;
    const auto bytes = static_cast<int64_t>(weight.size_bytes());
    cost.held_bytes += bytes;
    elements_[dtype] += rows * cols;
    if (elements_[dtype] > elements_[cost.dtype]) cost.dtype = dtype;
    if (layout == Weight::Layout::kRows) {
      cost.decode_bytes += static_cast<int64_t>(dtype_bytes(dtype, static_cast<size_t>(cols)));
      return weight;
    }
    if (init.read_share < 1) {
      cost.decode_bytes += add_share(&shared_bytes_, init.read_share * static_cast<double>(bytes));
      cost.body_multiplies[dtype] += add_share(&shared_multiplies_, init.read_share * static_cast<double>(live));
      return weight;
    }
    cost.decode_bytes += bytes;
    const bool head = name == "lm_head.weight" || name == "embeddings.weight";
    (head ? cost.head_multiplies : cost.body_multiplies)[dtype] += live;
    return weight;
  }

  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override {
    if (init.mask) note_wired(name, init);
    const Tensor values(shape, DType::kF32, Device::kMeta);
    cost.held_bytes += static_cast<int64_t>(values.size_bytes());
    cost.decode_bytes += static_cast<int64_t>(values.size_bytes());
    return values;
  }

  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override {
    const model::Family& family = model::find_family(files_.config.model_type, files_.place.config);
    for (const model::TensorSource& source : family.names.sources(files_.config, name)) {
      const formats::TensorEntry* entry = files_.checkpoint ? files_.checkpoint->find(source.file_name) : nullptr;
      if (entry == nullptr) continue;
      return model::read_mask(*entry, drawn->rows(), drawn->cols(), drawn->polarity(), files_.place.weights);
    }
    return drawn;
  }

  ModelCost cost;

 private:
  // Returns its live weights.
  int64_t note_wired(const std::string& name, const Init& init) {
    const std::string projection = name.substr(0, name.rfind(".weight"));
    const Mask& mask = *init.mask;
    const int64_t live = mask.live(), masked = mask.rows() * mask.cols() - live;
    cost.wired.push_back({projection, mask.rows(), mask.cols(), live, mask.polarity()});
    cost.masked += masked;
    cost.active_masked += add_share(&shared_masked_, init.read_share * static_cast<double>(masked));
    return live;
  }
  // What the rounded total grows by: the rounding of single shares does not add up.
  static int64_t add_share(double* total, double share) {
    const int64_t before = std::llround(*total);
    *total += share;
    return std::llround(*total) - before;
  }

  std::map<DType, int64_t> elements_;
  double shared_bytes_ = 0, shared_multiplies_ = 0, shared_masked_ = 0;
  const ModelFiles& files_;
  const model::WeightTypes& types_;
};

}  // namespace

DType ModelFiles::dtype_of(const std::string& name) const {
  if (checkpoint) {
    for (const model::TensorSource& source :
         model::spelling_of(config, &*checkpoint, place.config).sources(config, name)) {
      const formats::TensorEntry* entry = checkpoint->find(source.file_name);
      if (entry != nullptr && entry->is_weight()) return model::held_dtype(*entry);
    }
  }
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!config.source.contains(key)) continue;
    if (config.source[key] == "bfloat16") return DType::kBF16;
    if (config.source[key] == "float16") return DType::kF16;
  }
  return DType::kF32;
}

ModelFiles open_model_files(const std::string& path) {
  ModelFiles files;
  files.place = model::resolve(path);
  if (!files.place.weights.empty()) files.checkpoint = formats::Checkpoint::open(files.place.weights);
  files.config = model::read_model_config(files.place, files.checkpoint ? &*files.checkpoint : nullptr);
  return files;
}

ModelCost measure_cost(const ModelFiles& files, const model::WeightTypes& types) {
  CostSource source(files, types);
  model::declare_params(files.config, source, files.place.config);
  return source.cost;
}

int64_t fixed_state_bytes(const StateLayout& layout) {
  int64_t bytes = 0;
  for (const StateLayout::Entry& entry : layout.entries()) {
    if (!entry.spec.per_token) bytes += entry.spec.shape.count() * static_cast<int64_t>(dtype_size(entry.spec.dtype));
  }
  return bytes;
}

}  // namespace carousel::cli
