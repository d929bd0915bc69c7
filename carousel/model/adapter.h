// SPDX-License-Identifier: Apache-2.0
// Adapters of low rank as PEFT keeps them: adapter_config.json, and adapter_model.safetensors with
// "base_model.model.<module>.lora_A.weight" [R, K] and "….lora_B.weight" [M, R] for every module, the tensor
// "<module>.weight" [M, K] of the base model's files. The model computes with W + (alpha / R) B A.
#pragma once

#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/formats/new_file.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/config.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// A projection of the model's files that an adapter may change.
struct AdapterModule {
  std::string name;             // without ".weight": "backbone.blocks.0.mlstm_layer.q"
  std::vector<size_t> records;  // its parameters, whose rows follow each other: several where they are stored fused
  int64_t rows = 0, cols = 0;   // M, K
  std::string a_name() const { return name + ".lora_A.weight"; }
  std::string b_name() const { return name + ".lora_B.weight"; }
};

/// An adapter without its values.
struct Adapter {
  int64_t rank = 0;
  double alpha = 0;
  bool sqrt_scale = false;             // rsLoRA: alpha / sqrt(R)
  std::string base;                    // the base model's folder, as the config names it
  std::vector<AdapterModule> modules;  // in the order of the model's files
  float scale() const;
};

/// A fresh adapter for the projections whose published or canonical names end in one of `targets` (none: for all).
/// Throws Error(kInput) for a target that the model lacks, or that is no projection.
std::vector<AdapterModule> find_targets(const ModelConfig& config, const std::vector<ParamRecord>& records,
                                        const std::vector<std::string>& targets, const std::string& where);

/// The files of an adapter, read.
class AdapterFiles {
 public:
  /// Throws Error(kIo, kInput): a file is missing or malformed, or the adapter is of a kind that is not supported.
  explicit AdapterFiles(const std::string& folder);
  /// The adapter for the model of these records. Throws Error(kInput) where it is one of another model.
  Adapter bind(const ModelConfig& config, const std::vector<ParamRecord>& records) const;
  const Adapter& config() const { return config_; }  // without modules
  /// A or B of a module, in f32: `name` is its a_name() or b_name(). Throws Error(kInput) unless it has this shape.
  Tensor read(const std::string& name, const Shape& shape) const;
  uint64_t hash() const;  // of all bytes of the tensors

 private:
  /// The modules that tensors name. Throws Error(kInput) for a tensor of another name, and for none.
  std::vector<std::string> modules() const;
  /// The tensor of this name. Throws Error(kInput) where it is missing, or of another shape or type.
  const formats::TensorEntry& find(const std::string& name, const Shape& shape) const;

  std::string where_;  // adapter_model.safetensors
  Adapter config_;
  formats::SafetensorsFile file_;
};

/// Writes the two files. `tensors` are named as in the file.
void write_adapter(const Adapter& adapter, const NamedTensors& tensors, formats::NewFolder& out);

constexpr const char* kAdapterPrefix = "base_model.model.";
constexpr const char* kAdapterConfig = "adapter_config.json";
/// Whether a folder holds an adapter.
bool is_adapter(const std::string& folder);

}  // namespace carousel::model
