// SPDX-License-Identifier: Apache-2.0
// Which modules an adapter may have, and its files.
#include "carousel/model/adapter.h"

#include <fmt/format.h>
#include <fnmatch.h>
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/families/family.h"
#include "carousel/model/model_writer.h"

namespace carousel::model {
namespace {

constexpr const char* kWeights = "adapter_model.safetensors";
constexpr int64_t kMostRank = 1 << 20;

bool strip_suffix(std::string& name, const std::string& suffix) {
  if (!name.ends_with(suffix)) return false;
  name.resize(name.size() - suffix.size());
  return true;
}

/// Whether `pattern` (fnmatch) is `name` or the end of it that follows a dot.
bool matches_end(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0 || fnmatch(("*." + pattern).c_str(), name.c_str(), 0) == 0;
}

/// Whether the parameter is the matrix of a product y = W x inside a block. Those of cells are
/// none: a cell packs them into a form of its own, which the sum would not reach.
bool is_projection(const ModelConfig& config, const ParamRecord& record) {
  if (!record.matrix || record.layout != Weight::Layout::kPanels || record.init.mask != nullptr) return false;
  return std::any_of(config.sublayers.begin(), config.sublayers.end(), [&](const Sublayer& sublayer) {
    const bool cell = sublayer.block == "ncps_cfc" || sublayer.block == "ncps_ltc";
    return !cell && record.name.starts_with(sublayer.name + ".");
  });
}

std::vector<FileTensor> tensors_of(const ModelConfig& config, const std::vector<ParamRecord>& records,
                                   const std::string& where) {
  return file_tensors(config, find_family(config.model_type, where).names, records);
}

/// Empty `records`: the tensor is no projection.
AdapterModule module_of(const ModelConfig& config, const std::vector<ParamRecord>& records, const FileTensor& tensor) {
  AdapterModule module{tensor.name, {}, 0, 0};
  if (!strip_suffix(module.name, ".weight") || tensor.permuted || tensor.shape.rank() != 2) return module;
  for (const size_t i : tensor.records) {
    if (!is_projection(config, records[i])) return module;
  }
  module.records = tensor.records;
  module.rows = tensor.shape[0];
  module.cols = tensor.shape[1];
  return module;
}

bool names_tensor(const std::string& target, const std::vector<ParamRecord>& records, const FileTensor& tensor) {
  std::string name = tensor.name;
  strip_suffix(name, ".weight");
  if (matches_end(target, name)) return true;
  return std::any_of(tensor.records.begin(), tensor.records.end(), [&](size_t i) {
    std::string canonical = records[i].name;
    strip_suffix(canonical, ".weight");
    return matches_end(target, canonical);
  });
}

/// Refuses settings that would change what the tensors mean.
void check_supported(Fields& fields) {
  fields.choice("peft_type", {"LORA"}, {});
  fields.choice("bias", {"none"}, "none");
  // Those that change the base's weights too, which are then not the ones in its files.
  const Json* const drawn = fields.raw("init_lora_weights");
  const std::string method = drawn != nullptr && drawn->is_string() ? drawn->get<std::string>() : "";
  for (const char* changes : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (!method.starts_with(changes)) continue;
    fail(ErrorKind::kInput, "{}: \"init_lora_weights\" is \"{}\", expected a method that leaves the base as it is",
         fields.where(), method);
  }
  for (const char* flag : {"use_dora", "fan_in_fan_out", "lora_bias", "use_qalora", "use_bdlora"}) {
    if (fields.boolean(flag, false))
      fail(ErrorKind::kInput, "{}: \"{}\" is true, expected false", fields.where(), flag);
  }
  for (const char* key : {"rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters",
                          "trainable_token_indices", "layer_replication", "alora_invocation_tokens"}) {
    const Json* const value = fields.raw(key);
    if (value == nullptr || value->empty()) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected none: not supported", fields.where(), key, brief(*value));
  }
}

Adapter read_config(const std::string& path) {
  Fields fields(read_json_file(path, {size_t{1} << 20, 16}), path);
  check_supported(fields);
  Adapter adapter;
  adapter.rank = fields.integer("r", 1, kMostRank);
  adapter.alpha = fields.number("lora_alpha", 0, 1e9);
  adapter.sqrt_scale = fields.boolean("use_rslora", false);
  adapter.base = fields.string("base_model_name_or_path", "");
  return adapter;
}

}  // namespace

float Adapter::scale() const {
  const auto r = static_cast<double>(rank);
  return static_cast<float>(alpha / (sqrt_scale ? std::sqrt(r) : r));
}

bool is_adapter(const std::string& folder) { return file_exists(folder + "/" + kAdapterConfig); }

std::vector<AdapterModule> find_targets(const ModelConfig& config, const std::vector<ParamRecord>& records,
                                        const std::vector<std::string>& targets, const std::string& where) {
  const std::vector<std::string> wanted = targets.empty() ? std::vector<std::string>{"*"} : targets;
  std::vector<bool> found(wanted.size()), taken(wanted.size());
  std::vector<AdapterModule> out;
  for (const FileTensor& tensor : tensors_of(config, records, where)) {
    const AdapterModule module = module_of(config, records, tensor);
    bool chosen = false;
    for (size_t t = 0; t < wanted.size(); ++t) {
      if (!names_tensor(wanted[t], records, tensor)) continue;
      found[t] = true;
      if (module.records.empty()) continue;
      chosen = taken[t] = true;
    }
    if (chosen) out.push_back(module);
  }
  for (size_t t = 0; t < wanted.size(); ++t) {
    if (!found[t]) fail(ErrorKind::kInput, "{}: the model has no \"{}\" for an adapter to change", where, wanted[t]);
    if (!taken[t]) fail(ErrorKind::kInput, "{}: \"{}\" is no projection, expected one of a block", where, wanted[t]);
  }
  return out;
}

AdapterFiles::AdapterFiles(const std::string& folder)
    : where_(folder + "/" + kWeights),
      config_(read_config(folder + "/" + kAdapterConfig)),
      file_(formats::SafetensorsFile::open(where_)) {}

std::vector<std::string> AdapterFiles::modules() const {
  std::set<std::string> names;
  for (const formats::TensorEntry& entry : file_.entries()) {
    std::string name = entry.name;
    const bool low = strip_prefix(name, kAdapterPrefix) &&
                     (strip_suffix(name, ".lora_A.weight") || strip_suffix(name, ".lora_B.weight"));
    if (!low) {
      fail(ErrorKind::kInput, "{}: \"{}\" is unknown, expected base_model.model.<module>.lora_A.weight or lora_B",
           where_, entry.name);
    }
    names.insert(name);
  }
  if (names.empty()) fail(ErrorKind::kInput, "{}: no tensors", where_);
  return {names.begin(), names.end()};
}

Adapter AdapterFiles::bind(const ModelConfig& config, const std::vector<ParamRecord>& records) const {
  Adapter out = config_;
  const std::vector<std::string> names = modules();
  std::set<std::string> left(names.begin(), names.end());
  for (const FileTensor& tensor : tensors_of(config, records, where_)) {
    std::string name = tensor.name;
    strip_suffix(name, ".weight");
    if (left.erase(name) == 0) continue;
    const AdapterModule module = module_of(config, records, tensor);
    if (module.records.empty()) {
      fail(ErrorKind::kInput, "{}: \"{}\" is no projection of the model, expected one of a block", where_, name);
    }
    out.modules.push_back(module);
    find(module.a_name(), Shape{out.rank, module.cols});
    find(module.b_name(), Shape{module.rows, out.rank});
  }
  if (!left.empty()) {
    fail(ErrorKind::kInput, "{}: the model has no \"{}\": an adapter of another model", where_, *left.begin());
  }
  return out;
}

const formats::TensorEntry& AdapterFiles::find(const std::string& name, const Shape& shape) const {
  const formats::TensorEntry* const entry = file_.find(kAdapterPrefix + name);
  if (entry == nullptr) fail(ErrorKind::kInput, "{}: \"{}{}\" is missing", where_, kAdapterPrefix, name);
  if (!(entry->shape == shape) || !is_float(entry->dtype)) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected floats {} for this model and rank", where_, entry->name,
         entry->type_name(), entry->shape.str(), shape.str());
  }
  return *entry;
}

Tensor AdapterFiles::read(const std::string& name, const Shape& shape) const {
  const formats::TensorEntry& entry = find(name, shape);
  if (const std::optional<int64_t> at = entry.first_not_finite()) {
    fail(ErrorKind::kInput, "{}: \"{}\" is not finite at element {}", where_, entry.name, *at);
  }
  return entry.load().to_f32();
}

uint64_t AdapterFiles::hash() const {
  uint64_t hash = static_cast<uint64_t>(config_.rank);
  const float scale = config_.scale();
  hash = XXH3_64bits_withSeed(&scale, sizeof scale, hash);
  for (const formats::TensorEntry& entry : file_.entries()) {
    hash = XXH3_64bits_withSeed(entry.name.data(), entry.name.size(), hash);
    hash = XXH3_64bits_withSeed(entry.bytes, entry.size_bytes, hash);
  }
  return hash;
}

void write_adapter(const Adapter& adapter, const NamedTensors& tensors, formats::NewFolder& out) {
  Json targets = Json::array();
  for (const AdapterModule& module : adapter.modules) targets.push_back(module.name);
  const Json config = {
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", adapter.base},
      {"r", adapter.rank},
      {"lora_alpha",
       std::floor(adapter.alpha) == adapter.alpha ? Json(static_cast<int64_t>(adapter.alpha)) : Json(adapter.alpha)},
      {"use_rslora", adapter.sqrt_scale},
      {"lora_dropout", 0.0},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"target_modules", targets}};
  write_text_file(out.file(kAdapterConfig), config.dump(2) + "\n");
  formats::write_safetensors(out.file(kWeights), tensors, {{"format", "pt"}});
}

}  // namespace carousel::model
