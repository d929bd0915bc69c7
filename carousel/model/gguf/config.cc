// SPDX-License-Identifier: Apache-2.0
// GGUF keys to the config.json of the family that reads them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/key_reader.h"

namespace carousel::model {
namespace {

constexpr int64_t kQuantization = 2;  // the version of the block layouts

Json llama(KeyReader& keys) {
  Json out{{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}};
  read_common_keys(keys, out);
  const std::vector<int64_t> schedule = read_attention_keys(keys, 1e4, out);
  if (std::find(schedule.begin(), schedule.end(), 0) != schedule.end()) {
    fail(ErrorKind::kInput, "{}: \"{}\" has layers without attention, expected none in this architecture", keys.where(),
         keys.name("attention.head_count_kv"));
  }
  out["intermediate_size"] = keys.integer("feed_forward_length", 1, KeyReader::kMaxWidth);
  out["rms_norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  out["attention_bias"] = keys.tensor("blk.0.attn_q.bias") != nullptr;
  out["mlp_bias"] = keys.tensor("blk.0.ffn_up.bias") != nullptr;
  return out;
}

// The family's reader takes the tensors' width over the config's, as published configs contradict themselves; a GGUF
// file that does is broken.
void check_width(const KeyReader& keys, int64_t stated) {
  constexpr const char* kTensor = "blk.0.ffn_gate.weight";
  const formats::TensorEntry* gate = keys.tensor(kTensor);
  if (gate == nullptr || gate->shape.rank() != 2 || gate->shape[0] == stated) return;
  fail(ErrorKind::kInput, "{}: \"{}\" is {}, but \"{}\" has {} rows", keys.where(), keys.name("feed_forward_length"),
       stated, kTensor, gate->shape[0]);
}

Json lfm2(KeyReader& keys, bool experts) {
  Json out{{"model_type", experts ? "lfm2_moe" : "lfm2"},
           {"architectures", {experts ? "Lfm2MoeForCausalLM" : "Lfm2ForCausalLM"}}};
  read_common_keys(keys, out);
  if (!keys.has("attention.head_count_kv")) {
    fail(ErrorKind::kInput, "{}: \"{}\" is missing, expected the kv heads of every layer, 0 for a convolution",
         keys.where(), keys.name("attention.head_count_kv"));
  }
  for (const int64_t kv_heads : read_attention_keys(keys, {}, out)) {
    out["layer_types"].push_back(kv_heads == 0 ? "conv" : "full_attention");
  }
  out["norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  out["conv_L_cache"] = keys.integer("shortconv.l_cache", 1, 1024);
  const auto layers = out.at("num_hidden_layers").get<int64_t>();
  bool bias = false;
  for (int64_t i = 0; i < layers; ++i)
    bias = bias || keys.tensor(fmt::format("blk.{}.shortconv.conv.bias", i)) != nullptr;
  out["conv_bias"] = bias;
  const int64_t width = keys.integer("feed_forward_length", 1, KeyReader::kMaxWidth);
  out["intermediate_size"] = width;
  if (!experts) {
    check_width(keys, width);
    out["block_auto_adjust_ff_dim"] = false;
    return out;
  }
  out["num_dense_layers"] = keys.integer("leading_dense_block_count", 0, kMaxLayers);
  out["num_experts"] = keys.integer("expert_count", 1, kMaxDim);
  out["num_experts_per_tok"] = keys.integer("expert_used_count", 1, kMaxDim);
  out["moe_intermediate_size"] = keys.integer("expert_feed_forward_length", 1, KeyReader::kMaxWidth);
  out["routed_scaling_factor"] = keys.number("expert_weights_scale", 0, 1e6, 1.0);
  out["norm_topk_prob"] = keys.boolean("expert_weights_norm", true);
  bool choice_bias = false;
  for (int64_t i = 0; i < layers; ++i) {
    choice_bias = choice_bias || keys.tensor(fmt::format("blk.{}.exp_probs_b.bias", i)) != nullptr;
  }
  out["use_expert_bias"] = choice_bias;
  constexpr int64_t kSigmoid = 2;
  if (const int64_t gate = keys.integer("expert_gating_func", 0, 1000); gate != kSigmoid) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected {} (sigmoid)", keys.where(), keys.name("expert_gating_func"),
         gate, kSigmoid);
  }
  return out;
}

// f with trunc(hidden * f) == width: the family's configs give widths as shares of the hidden size.
double share(int64_t width, int64_t hidden) {
  double factor = static_cast<double>(width) / static_cast<double>(hidden);
  while (static_cast<int64_t>(static_cast<double>(hidden) * factor) < width) factor = std::nextafter(factor, INFINITY);
  return factor;
}

Json cap(double value) { return value == 0 ? Json() : Json(value); }

Json xlstm(KeyReader& keys) {
  Json out{{"model_type", "xlstm"}, {"architectures", {"xLSTMForCausalLM"}}};
  read_common_keys(keys, out);
  const auto hidden = out.at("hidden_size").get<int64_t>();
  const int64_t heads = keys.integer("mlstm.head_count", 1, kMaxDim);
  out["num_heads"] = heads;
  out["qk_dim_factor"] = share(heads * keys.integer("mlstm.key_length", 1, kMaxDim), hidden);
  out["v_dim_factor"] = share(heads * keys.integer("mlstm.value_length", 1, kMaxDim), hidden);
  const int64_t width = keys.integer("feed_forward_length", 1, KeyReader::kMaxWidth);
  // The published models' rule where it gives this width, so that a config looks as it did.
  constexpr double kFactor = 2.667;
  constexpr int64_t kMultiple = 64;
  const auto usual =
      static_cast<int64_t>((static_cast<double>(hidden) * kFactor + kMultiple - 1) / kMultiple) * kMultiple;
  out["ffn_proj_factor"] = width == usual ? kFactor : share(width, hidden);
  out["ffn_round_up_to_multiple_of"] = width == usual ? kMultiple : 1;
  out["norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  out["eps"] = keys.number("mlstm.epsilon", 0, 1);
  out["gate_soft_cap"] = cap(keys.number("mlstm.gate_soft_cap", 0, 1e9));
  out["output_logit_soft_cap"] = cap(keys.number("final_logit_softcapping", 0, 1e9));
  out["use_bias"] = keys.tensor("blk.0.mlstm.q.bias") != nullptr;
  out["add_out_norm"] = keys.boolean("output_norm", true);
  out.erase("max_position_embeddings");  // nothing here has a longest text
  return out;
}

// Any other model: its config.json as it was.
Json carousel(KeyReader& keys) {
  const std::string text = keys.all().string("carousel.config");
  Json out = parse_json(text, keys.where() + ": \"carousel.config\"", {size_t{16} << 20, 64});
  if (!out.is_object())
    fail(ErrorKind::kInput, "{}: \"carousel.config\" is {}, expected an object", keys.where(), brief(out));
  return out;
}

}  // namespace

Json gguf_config(const formats::Checkpoint& checkpoint, const std::string& where, std::vector<std::string>* unknown) {
  Fields general(checkpoint.gguf()->values, where);
  const std::string arch =
      general.choice("general.architecture", {"llama", "lfm2", "lfm2moe", "xlstm", "carousel"}, {});
  if (const std::string type = general.string("general.type", "model"); type != "model") {
    fail(ErrorKind::kInput, "{}: \"general.type\" is \"{}\", expected a model", where, type.substr(0, 60));
  }
  const int64_t version = general.integer("general.quantization_version", 0, INT64_MAX, kQuantization);
  if (version != kQuantization) {
    fail(ErrorKind::kInput, "{}: \"general.quantization_version\" is {}, expected {}", where, version, kQuantization);
  }
  for (const char* key : kGgufWidened) {
    const formats::GgufArray* names = checkpoint.gguf()->array(key);
    if (names != nullptr) names->strings();  // or throws
    if (names == nullptr && checkpoint.gguf()->values.contains(key)) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected a list of tensor names", where, key,
           brief(checkpoint.gguf()->values.at(key)));
    }
  }
  KeyReader keys(checkpoint, where, arch);
  Json out = arch == "llama"      ? llama(keys)
             : arch == "xlstm"    ? xlstm(keys)
             : arch == "carousel" ? carousel(keys)
                                  : lfm2(keys, arch == "lfm2moe");
  keys.refuse_unsupported();
  if (unknown != nullptr) *unknown = keys.unknown();
  return out;
}

}  // namespace carousel::model
