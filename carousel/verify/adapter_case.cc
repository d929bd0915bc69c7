// SPDX-License-Identifier: Apache-2.0
// The base of an adapter, and the weights merged with it.
#include "carousel/verify/adapter_case.h"

#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/merged.h"

namespace carousel::verify {
namespace {

const std::string kMerged = "merged.";

}  // namespace

std::string base_of(const std::string& folder) {
  if (!model::is_adapter(folder)) return "";
  const std::string name = model::AdapterFiles(folder).config().base;
  const std::string base = (std::filesystem::path(folder) / ".." / name).lexically_normal().string();
  if (name.empty() || !file_exists(base)) {
    fail(ErrorKind::kInput, "{}: \"base_model_name_or_path\" is \"{}\", expected a folder beside this one", folder,
         name);
  }
  return base;
}

model::Model load_case(const std::string& folder, const Setup& setup) {
  const std::string base = base_of(folder);
  const bool adapts = !base.empty();
  return model::load(adapts ? base : folder, setup.stream, model::ModelKind::kLanguage, setup.numerics, setup.weights,
                     adapts ? folder : "");
}

std::vector<Comparison> compare_merged(const std::string& folder, const formats::SafetensorsFile& expected,
                                       const Stream& stream) {
  const std::string base = base_of(folder);
  if (base.empty()) return {};
  const model::ModelPath place = model::resolve(base);
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(place.weights);
  model::ParamList list;
  const model::ModelConfig config = model::read_model_config(place, &checkpoint);
  model::declare_params(config, list, place.config);
  const model::AdapterFiles files(folder);
  const model::Adapter adapter = files.bind(config, list.records());
  std::vector<Comparison> out;
  for (const formats::TensorEntry& tensor : expected.entries()) {
    if (!tensor.name.starts_with(kMerged)) continue;
    const formats::TensorEntry* const weight = checkpoint.find(tensor.name.substr(kMerged.size()));
    if (weight == nullptr || !(weight->shape == tensor.shape) || tensor.dtype != DType::kF32) continue;
    const Tensor got = model::merged_values(*weight, files, adapter, stream), want = tensor.load();
    Comparison comparison;
    comparison.name = tensor.name;
    fold(comparison, got.f32(), want.f32(), static_cast<size_t>(got.count()), {"merged"});
    out.push_back(comparison);
  }
  return out;
}

}  // namespace carousel::verify
