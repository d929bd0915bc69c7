// SPDX-License-Identifier: Apache-2.0
// The mixes q4_k_m and q5_k_m: which matrices get more bits than the type that gives a mix its name. The rule is that
// of llama.cpp's tools, so that a file has the types that its readers and users expect. It counts layers, and tells
// matrices by what they do: values of attention and the projections back from a feed-forward are the sensitive ones.
#include <algorithm>

#include "carousel/model/families/family.h"
#include "carousel/model/load.h"
#include "carousel/model/params.h"

namespace carousel::model {
namespace {

constexpr int64_t kFewExperts = 8;    // with so many the attention is small beside the experts
constexpr int64_t kLargeLayers = 80;  // of Llama 2 70B, whose heads share few values

// True for the first and the last eighth of n, and for every third between.
bool is_sensitive(int64_t i, int64_t n) {
  const int64_t eighth = n / 8;
  if (i < eighth || i >= 7 * n / 8) return true;
  return (i - eighth) % 3 == 2;
}

int64_t experts_of(const ModelConfig& config) {
  for (const Sublayer& sublayer : config.sublayers) {
    if (sublayer.block == "moe") return stated(sublayer.options, "num_experts", kFewExperts).get<int64_t>();
  }
  return 1;
}

bool shares_values(const ModelConfig& config) {
  return std::any_of(config.sublayers.begin(), config.sublayers.end(), [](const Sublayer& sublayer) {
    if (sublayer.block != "attention") return false;
    const Json heads = stated(sublayer.options, "num_heads", 1);
    return stated(sublayer.options, "num_kv_heads", heads) < heads;
  });
}

// What a matrix of a layer does, as far as the rule asks.
enum class Role { kValue, kKey, kAttentionOut, kDown, kOther };
Role role_of(const ParamRecord& record) {
  const LayerName place = split_layer(record.name);
  const std::string& rest = place.rest;
  if (rest.starts_with("ffn.")) return rest.ends_with("down.weight") ? Role::kDown : Role::kOther;
  if (rest.ends_with(".v_proj.weight") || rest.ends_with(".v.weight")) return Role::kValue;
  if (rest == "full_attention.k_proj.weight") return Role::kKey;
  return rest == "full_attention.out_proj.weight" ? Role::kAttentionOut : Role::kOther;
}

class Mix {
 public:
  Mix(const ModelConfig& config, const std::vector<ParamRecord>& records, DType base)
      : base_(base), layers_(config.num_layers), few_experts_(experts_of(config) == kFewExperts) {
    values_ = std::count_if(records.begin(), records.end(),
                            [](const ParamRecord& record) { return role_of(record) == Role::kValue; });
    // A family is not named here: attention in every layer, with few values, is what tells these models.
    large_ = layers_ == kLargeLayers && values_ == layers_ && shares_values(config);
  }

  // The type of a matrix in a layer; called in the order of the layers.
  DType in_layer(const ParamRecord& record) {
    switch (role_of(record)) {
      case Role::kValue:
        return value(value_++);
      case Role::kKey:
        return few_experts_ ? DType::kQ8 : base_;
      case Role::kAttentionOut:
        return few_experts_ && base_ == DType::kQ4K ? DType::kQ5K : base_;
      case Role::kDown:
        return is_sensitive(split_layer(record.name).layer, layers_) ? DType::kQ6K : base_;
      default:
        return base_;
    }
  }

 private:
  DType value(int64_t i) const {
    if (few_experts_) return DType::kQ8;
    if (is_sensitive(i, values_)) return DType::kQ6K;
    return large_ && base_ == DType::kQ4K ? DType::kQ5K : base_;
  }

  DType base_;
  int64_t layers_ = 0, values_ = 0, value_ = 0;
  bool few_experts_ = false, large_ = false;
};

}  // namespace

WeightTypes with_mix(const WeightTypes& types, const ModelConfig& config, const std::string& where) {
  if (!types.mixed || !types.body) return types;
  ParamList list;
  declare_params(config, list, where);
  Mix mix(config, list.records(), *types.body);
  WeightTypes out = types;
  for (const ParamRecord& record : list.records()) {
    if (!record.matrix || record.init.gate) continue;
    const bool table = record.name == "embeddings.weight";
    const bool head = record.name == "lm_head.weight" || (table && record.layout == Weight::Layout::kPanels);
    if (!table && !head) {
      out.by_name[record.name] = mix.in_layer(record);
    } else if (!types.of(record.name, record.layout, record.init)) {  // else the user has named its type
      out.by_name[record.name] = head ? DType::kQ6K : *types.body;
    }
  }
  return out;
}

}  // namespace carousel::model
