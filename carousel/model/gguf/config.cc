// SPDX-License-Identifier: Apache-2.0
// GGUF keys to the config.json of the family that reads them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/rope.h"

namespace carousel::model {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 30;
constexpr int64_t kQuantization = 2;  // the version of block layouts that is read

// Keys (after the architecture's name) that have no effect here.
constexpr const char* kWithoutEffect[] = {"context_length", "tensor_data_layout", "vocab_size", "rope.dimension_count"};

// Keys whose effect is not implemented, and the value at which they have none.
struct Neutral {
  const char* key;
  double value;
};
constexpr Neutral kUnsupported[] = {
    {"rope.scaling.factor", 1},
    {"rope.scale_linear", 1},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
    {"rope.scaling.yarn_ext_factor", 0},
    {"rope.scaling.yarn_attn_factor", 1},
    {"attention.sliding_window", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.scale", 0},
    {"attention.output_scale", 1},
    {"attention.temperature_scale", 0},
    {"attention.temperature_length", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"router_logit_softcapping", 0},
    {"logit_scale", 1},
    {"embedding_scale", 1},
    {"residual_scale", 1},
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"expert_shared_count", 0},
    {"expert_group_count", 0},
    {"expert_weights_norm", 0},
    {"leading_dense_block_count", 0},
    {"nextn_predict_layers", 0},
    {"use_parallel_residual", 0},
    {"swiglu_clamp_exp", 0},
    {"pooling_type", 0},
};

// The keys of one architecture, read with their names in messages, and what the tensors say.
class Keys {
 public:
  Keys(const formats::Checkpoint& checkpoint, const std::string& where, std::string arch)
      : checkpoint_(checkpoint), fields_(checkpoint.gguf()->values, where), arch_(std::move(arch)) {}

  int64_t integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback = {}) {
    return fields_.integer(name(key).c_str(), min, max, fallback);
  }
  double number(const char* key, double min, double max, std::optional<double> fallback = {}) {
    return fields_.number(name(key).c_str(), min, max, fallback);
  }
  bool boolean(const char* key, bool fallback) { return fields_.boolean(name(key).c_str(), fallback); }
  std::string string(const char* key, const std::string& fallback) {
    return fields_.string(name(key).c_str(), fallback);
  }
  bool has(const char* key) const { return fields_.has(name(key).c_str()); }
  const Json* raw(const char* key) { return fields_.raw(name(key).c_str()); }
  std::vector<int64_t> integers(const char* key, int64_t min, int64_t max) {
    return fields_.integers(name(key).c_str(), min, max, kMaxLayers);
  }
  std::string name(const char* key) const { return arch_ + "." + key; }
  const std::string& where() const { return fields_.where(); }
  Fields& all() { return fields_; }
  const formats::TensorEntry* tensor(const std::string& tensor) const { return checkpoint_.find(tensor); }

  /// Throws Error(kInput): a key of this architecture that changes the result in a way not implemented.
  void refuse_unsupported() {
    for (const Neutral& unsupported : kUnsupported) {
      const std::string key = name(unsupported.key);
      if (fields_.knows(key) || !fields_.has(key.c_str())) continue;
      const Json& value = *fields_.raw(key.c_str());
      const double number = value.is_boolean()  ? (value.get<bool>() ? 1.0 : 0.0)
                            : value.is_number() ? value.get<double>()
                                                : std::nan("");
      if (number == unsupported.value) continue;
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, which is not supported, expected {:g} or none", where(), key,
           brief(value), unsupported.value);
    }
    if (!boolean("attention.causal", true)) {
      fail(ErrorKind::kInput, "{}: \"{}\" is false, expected a causal model", where(), name("attention.causal"));
    }
  }

  /// A width that is also the row count of `tensor` [..., rows, cols]. Converters are known to get the key wrong, so
  /// the tensor decides, with a warning.
  int64_t width(const char* key, const std::string& tensor_name) {
    const int64_t stated = integer(key, 1, kMaxWidth);
    const formats::TensorEntry* found = tensor(tensor_name);
    if (found == nullptr || found->shape.rank() < 2) return stated;
    const int64_t rows = found->shape[found->shape.rank() - 2];
    if (rows == stated || rows < 1) return stated;
    warnings.push_back(fmt::format("{}: \"{}\" is {}, but \"{}\" has {} rows; using theirs", where(), name(key), stated,
                                   tensor_name, rows));
    return rows;
  }
  std::vector<std::string> warnings;

  /// Keys that are neither the format's own nor known here.
  std::vector<std::string> unknown() const {
    std::vector<std::string> out;
    for (const auto& [key, value] : checkpoint_.gguf()->values.items()) {
      bool known = fields_.knows(key);
      for (const char* prefix : {"general.", "tokenizer.", "split.", "quantize.", "carousel."}) {
        known = known || key.starts_with(prefix);
      }
      for (const char* neutral : kWithoutEffect) known = known || key == name(neutral);
      if (!known) out.push_back(key);
    }
    return out;
  }

 private:
  const formats::Checkpoint& checkpoint_;
  Fields fields_;
  std::string arch_;
};

// Rows of the embeddings; every other statement of the vocabulary's size must agree.
int64_t vocabulary(Keys& keys) {
  const formats::TensorEntry* table = keys.tensor("token_embd.weight");
  if (table == nullptr || table->shape.rank() != 2) {
    fail(ErrorKind::kInput, "{}: tensor \"token_embd.weight\" with two dimensions is missing", keys.where());
  }
  const int64_t rows = table->shape[0];
  const int64_t stated = keys.integer("vocab_size", 1, kMaxDim, rows);
  if (stated != rows) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, but \"token_embd.weight\" has {} rows", keys.where(),
         keys.name("vocab_size"), stated, rows);
  }
  return rows;
}

void common(Keys& keys, Json& out) {
  out["vocab_size"] = vocabulary(keys);
  out["hidden_size"] = keys.integer("embedding_length", 1, kMaxDim);
  out["num_hidden_layers"] = keys.integer("block_count", 0, kMaxLayers);
  out["tie_word_embeddings"] = keys.tensor("output.weight") == nullptr;
  if (keys.has("context_length")) out["max_position_embeddings"] = keys.integer("context_length", 1, INT64_MAX);
  const DType dtype = keys.tensor("token_embd.weight")->dtype;
  if (is_float(dtype)) {
    out["torch_dtype"] = dtype == DType::kF16 ? "float16" : dtype == DType::kBF16 ? "bfloat16" : "float32";
  }
  // The tokens that begin and end texts. Chat models end a turn by another one.
  Fields& fields = keys.all();
  const auto token = [&](const char* key) -> std::optional<int64_t> {
    if (!fields.has(key)) return {};
    return fields.integer(key, 0, INT32_MAX);
  };
  if (const auto bos = token("tokenizer.ggml.bos_token_id")) out["bos_token_id"] = *bos;
  if (const auto pad = token("tokenizer.ggml.padding_token_id")) out["pad_token_id"] = *pad;
  std::vector<int64_t> ends;
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const auto id = token(key);
    if (id && std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
  }
  if (ends.size() == 1) out["eos_token_id"] = ends.front();
  if (ends.size() > 1) out["eos_token_id"] = ends;
}

// Heads and rotation. kv heads: one number, or one per layer, where 0 is a layer without attention.
std::vector<int64_t> attention(Keys& keys, std::optional<double> default_theta, Json& out) {
  const auto layers = out.at("num_hidden_layers").get<int64_t>();
  const int64_t heads = keys.integer("attention.head_count", 1, kMaxDim);
  out["num_attention_heads"] = heads;
  const Json* kv = keys.raw("attention.head_count_kv");
  std::vector<int64_t> schedule(static_cast<size_t>(layers), heads);
  if (kv != nullptr && kv->is_array()) {
    schedule = keys.integers("attention.head_count_kv", 0, kMaxDim);
    if (static_cast<int64_t>(schedule.size()) != layers) {
      fail(ErrorKind::kInput, "{}: \"{}\" lists {} layers, expected \"{}\" {}", keys.where(),
           keys.name("attention.head_count_kv"), schedule.size(), keys.name("block_count"), layers);
    }
  } else if (kv != nullptr) {
    schedule.assign(schedule.size(), keys.integer("attention.head_count_kv", 1, kMaxDim));
  }
  int64_t kv_heads = 0;
  for (const int64_t count : schedule) {
    if (count == 0) continue;
    if (kv_heads != 0 && count != kv_heads) {
      fail(ErrorKind::kInput, "{}: \"{}\" has layers of {} and of {}, expected the same number in all that have any",
           keys.where(), keys.name("attention.head_count_kv"), kv_heads, count);
    }
    kv_heads = count;
  }
  out["num_key_value_heads"] = kv_heads == 0 ? heads : kv_heads;
  int64_t head_dim = out.at("hidden_size").get<int64_t>() / heads;
  if (keys.has("attention.key_length")) {
    head_dim = keys.integer("attention.key_length", 1, kMaxDim);
    out["head_dim"] = head_dim;
  } else if (out.at("hidden_size").get<int64_t>() % heads != 0) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected a divisor of \"{}\" {}, or \"{}\"", keys.where(),
         keys.name("attention.head_count"), heads, keys.name("embedding_length"), out.at("hidden_size").get<int64_t>(),
         keys.name("attention.key_length"));
  }
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    const int64_t same = keys.integer(key, 1, kMaxDim, head_dim);
    if (same == head_dim) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected the size of a head, {}", keys.where(), keys.name(key), same,
         head_dim);
  }
  const double theta = keys.number("rope.freq_base", 1e-3, 1e12, default_theta);
  out["rope_theta"] = theta;
  if (const std::string scaling = keys.string("rope.scaling.type", "none"); scaling != "none") {
    fail(ErrorKind::kInput,
         "{}: \"{}\" is \"{}\", which is not supported, expected none or a tensor \"rope_freqs.weight\"", keys.where(),
         keys.name("rope.scaling.type"), scaling);
  }
  if (const formats::TensorEntry* freqs = keys.tensor("rope_freqs.weight")) {
    out["rope_scaling"] = read_rope_factors(*freqs, theta, head_dim, keys.all(), keys.name("rope.llama3."));
  }
  return schedule;
}

Json llama(Keys& keys) {
  Json out{{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}};
  common(keys, out);
  const std::vector<int64_t> schedule = attention(keys, 1e4, out);
  if (std::find(schedule.begin(), schedule.end(), 0) != schedule.end()) {
    fail(ErrorKind::kInput, "{}: \"{}\" has layers without attention, expected none in this architecture", keys.where(),
         keys.name("attention.head_count_kv"));
  }
  out["intermediate_size"] = keys.width("feed_forward_length", "blk.0.ffn_gate.weight");
  out["rms_norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  out["attention_bias"] = keys.tensor("blk.0.attn_q.bias") != nullptr;
  out["mlp_bias"] = keys.tensor("blk.0.ffn_up.bias") != nullptr;
  return out;
}

Json lfm2(Keys& keys, bool experts) {
  Json out{{"model_type", experts ? "lfm2_moe" : "lfm2"},
           {"architectures", {experts ? "Lfm2MoeForCausalLM" : "Lfm2ForCausalLM"}}};
  common(keys, out);
  if (!keys.has("attention.head_count_kv")) {
    fail(ErrorKind::kInput, "{}: \"{}\" is missing, expected the kv heads of every layer, 0 for a convolution",
         keys.where(), keys.name("attention.head_count_kv"));
  }
  for (const int64_t kv_heads : attention(keys, {}, out)) {
    out["layer_types"].push_back(kv_heads == 0 ? "conv" : "full_attention");
  }
  out["norm_eps"] = keys.number("attention.layer_norm_rms_epsilon", 0, 1);
  out["conv_L_cache"] = keys.integer("shortconv.l_cache", 1, 1024);
  const auto layers = out.at("num_hidden_layers").get<int64_t>();
  bool bias = false;
  for (int64_t i = 0; i < layers; ++i)
    bias = bias || keys.tensor(fmt::format("blk.{}.shortconv.conv.bias", i)) != nullptr;
  out["conv_bias"] = bias;
  out["intermediate_size"] = keys.width("feed_forward_length", "blk.0.ffn_gate.weight");
  if (!experts) {
    out["block_auto_adjust_ff_dim"] = false;
    return out;
  }
  const int64_t dense = keys.integer("leading_dense_block_count", 0, kMaxLayers);
  out["num_dense_layers"] = dense;
  out["num_experts"] = keys.integer("expert_count", 1, kMaxDim);
  out["num_experts_per_tok"] = keys.integer("expert_used_count", 1, kMaxDim);
  out["moe_intermediate_size"] =
      keys.width("expert_feed_forward_length", fmt::format("blk.{}.ffn_gate_exps.weight", dense));
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

// Returns f with trunc(hidden * f) == width: the family's configs give widths as shares of the hidden size.
double share(int64_t width, int64_t hidden) {
  double factor = static_cast<double>(width) / static_cast<double>(hidden);
  while (static_cast<int64_t>(static_cast<double>(hidden) * factor) < width) factor = std::nextafter(factor, INFINITY);
  return factor;
}

Json cap(double value) { return value == 0 ? Json() : Json(value); }

Json xlstm(Keys& keys) {
  Json out{{"model_type", "xlstm"}, {"architectures", {"xLSTMForCausalLM"}}};
  common(keys, out);
  const auto hidden = out.at("hidden_size").get<int64_t>();
  const int64_t heads = keys.integer("mlstm.head_count", 1, kMaxDim);
  out["num_heads"] = heads;
  out["qk_dim_factor"] = share(heads * keys.integer("mlstm.key_length", 1, kMaxDim), hidden);
  out["v_dim_factor"] = share(heads * keys.integer("mlstm.value_length", 1, kMaxDim), hidden);
  const int64_t width = keys.width("feed_forward_length", "blk.0.ffn_gate.weight");
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

// The config of any other model: its config.json, which the file holds whole.
Json carousel(Keys& keys) {
  const std::string text = keys.all().string("carousel.config");
  Json out = parse_json(text, keys.where() + ": \"carousel.config\"", {size_t{16} << 20, 64});
  if (!out.is_object())
    fail(ErrorKind::kInput, "{}: \"carousel.config\" is {}, expected an object", keys.where(), brief(out));
  return out;
}

}  // namespace

Json gguf_config(const formats::Checkpoint& checkpoint, const std::string& where, std::vector<std::string>* warnings) {
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
    if (names != nullptr) names->strings();  // throws where it is no list of strings
    if (names == nullptr && checkpoint.gguf()->values.contains(key)) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected a list of tensor names", where, key,
           brief(checkpoint.gguf()->values.at(key)));
    }
  }
  Keys keys(checkpoint, where, arch);
  Json out = arch == "llama"      ? llama(keys)
             : arch == "xlstm"    ? xlstm(keys)
             : arch == "carousel" ? carousel(keys)
                                  : lfm2(keys, arch == "lfm2moe");
  keys.refuse_unsupported();
  if (warnings == nullptr) return out;
  *warnings = keys.warnings;
  for (const std::string& key : keys.unknown()) {
    warnings->push_back(fmt::format("{}: \"{}\" is not a key known here; ignored", where, key));
  }
  return out;
}

}  // namespace carousel::model
