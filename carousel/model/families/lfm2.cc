// SPDX-License-Identifier: Apache-2.0
// LFM2 and LFM2-MoE (Liquid AI): gated short convolutions and a few attention layers, dense or with experts from some
// layer on. Every spelling of their configs is read.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/key_reader.h"
#include "carousel/model/gguf/key_writer.h"
#include "carousel/model/gguf/names.h"

namespace carousel::model {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 30;
constexpr const char* kFirstGate = "model.layers.0.feed_forward.w1.weight";

// block_ff_dim is the raw width and wins over intermediate_size; auto-adjust takes two thirds and rounds up. Published
// and converted files contradict themselves here, so the tensor's own row count decides, with a warning.
int64_t read_ffn_width(Fields& fields, const ShapeOf& shape_of, ModelConfig& out) {
  int64_t width = fields.integer("intermediate_size", 1, kMaxWidth, 12288);
  width = fields.integer("block_ff_dim", 1, kMaxWidth, width);
  const double multiplier = fields.number("block_ffn_dim_multiplier", 1e-3, 1e3, 1.0);
  const int64_t multiple = fields.integer("block_multiple_of", 1, 1 << 20, 256);
  if (fields.boolean("block_auto_adjust_ff_dim", true)) {
    width = 2 * width / 3;
    width = static_cast<int64_t>(multiplier * static_cast<double>(width));
    width = (width + multiple - 1) / multiple * multiple;
  }
  if (!shape_of || out.num_layers == 0) return width;
  const std::optional<Shape> stored = shape_of(kFirstGate);
  if (!stored || stored->rank() != 2 || (*stored)[0] == width) return width;
  out.warnings.push_back(fmt::format("{}: the feed-forward width computes to {}, the tensors have {}; using theirs",
                                     fields.where(), width, (*stored)[0]));
  return (*stored)[0];
}

std::vector<std::string> read_layer_types(Fields& fields, int64_t num_layers) {
  std::vector<std::string> types = fields.strings("layer_types", kMaxLayers);
  const bool by_index = fields.has("full_attn_idxs");
  const std::vector<int64_t> attention = fields.integers("full_attn_idxs", 0, num_layers - 1, kMaxLayers);
  if (!fields.has("layer_types")) {
    types.assign(static_cast<size_t>(num_layers), by_index ? "conv" : "full_attention");
    for (const int64_t index : attention) types[static_cast<size_t>(index)] = "full_attention";
  }
  if (static_cast<int64_t>(types.size()) != num_layers) {
    fail(ErrorKind::kInput, "{}: \"layer_types\" names {} layers, expected \"num_hidden_layers\" {}", fields.where(),
         types.size(), num_layers);
  }
  for (const std::string& type : types) {
    if (type == "conv" || type == "full_attention") continue;
    fail(ErrorKind::kInput, "{}: unknown layer type \"{}\"; known types: conv, full_attention", fields.where(), type);
  }
  return types;
}

void refuse_other_heads(Fields& fields, const std::string& expected, const std::string& older) {
  for (const std::string& architecture : fields.strings("architectures", 16)) {
    if (architecture == expected || architecture == older) continue;
    fail(ErrorKind::kInput, "{}: architecture \"{}\" is not a language model, expected {}", fields.where(),
         architecture, expected);
  }
}

// Options of the sublayers after the mixers.
struct FeedForward {
  Json ffn;  // "ffn_config"
  Json moe;  // "moe_config"
};

FeedForward read_dense(Fields& fields, const ShapeOf& shape_of, ModelConfig& out) {
  return {Json{{"intermediate_size", read_ffn_width(fields, shape_of, out)}}, {}};
}

// The first layers are dense, with the width that the config gives; the others have experts.
FeedForward read_experts(Fields& fields) {
  FeedForward out;
  out.ffn = {{"type", "moe"},
             {"num_dense_layers", fields.integer("num_dense_layers", 0, kMaxLayers, 2)},
             {"intermediate_size", fields.integer("intermediate_size", 1, kMaxWidth, 7168)}};
  out.moe = {{"intermediate_size", fields.integer("moe_intermediate_size", 1, kMaxWidth, 1792)},
             {"num_experts", fields.integer("num_experts", 1, kMaxDim, 32)},
             {"num_experts_per_tok", fields.integer("num_experts_per_tok", 1, kMaxDim, 4)},
             {"norm_topk_prob", fields.boolean("norm_topk_prob", true)},
             {"use_expert_bias", fields.boolean("use_expert_bias", true)},
             {"routed_scaling_factor", fields.number("routed_scaling_factor", 0, 1e6, 1.0)}};
  return out;
}

ModelConfig read_either(const Json& config, const std::string& where, const ShapeOf& shape_of, bool experts) {
  Fields fields(config, where);
  refuse_other_heads(fields, experts ? "Lfm2MoeForCausalLM" : "Lfm2ForCausalLM", experts ? "" : "LFM2ForCausalLM");
  ModelConfig out;
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim, 65536);
  out.hidden_size = fields.integer("hidden_size", 1, kMaxDim, experts ? 2048 : 2560);
  out.num_layers = fields.integer("num_hidden_layers", 0, kMaxLayers, 32);
  const double eps = fields.number("norm_eps", 0, 1, 1e-5);
  out.tie_word_embeddings = fields.boolean("tie_word_embeddings", true);
  out.tie_word_embeddings = fields.boolean("tie_embedding", out.tie_word_embeddings);
  out.eos_token_ids = read_eos(fields);
  // The class has 0 where the config says nothing; null is none.
  out.padding_token = config.contains("pad_token_id") ? read_padding(fields, out.vocab_size) : 0;
  out.final_norm.eps = eps;

  const int64_t heads = fields.integer("num_attention_heads", 1, kMaxDim, 32);
  Json attention{{"num_heads", heads},
                 {"num_kv_heads", fields.integer("num_key_value_heads", 1, kMaxDim, 8)},
                 {"qk_norm", true},
                 {"norm_eps", eps}};
  if (fields.has("head_dim")) attention["head_dim"] = fields.integer("head_dim", 1, kMaxDim);
  read_rope(fields, 1e6, attention);
  const Json conv{{"kernel_size", fields.integer("conv_L_cache", 1, 1024, 3)},
                  {"use_bias", fields.boolean("conv_bias", false)}};
  const FeedForward feed_forward = experts ? read_experts(fields) : read_dense(fields, shape_of, out);

  LayerPlan plan;
  plan.norm.eps = eps;
  plan.layer_types = read_layer_types(fields, out.num_layers);
  plan.section = [&](const std::string& name) {
    if (name == "conv_config") return conv;
    if (name == "attention_config") return attention;
    return name == "moe_config" ? feed_forward.moe : feed_forward.ffn;
  };
  out.sublayers = expand_layers(plan, where);
  fields.ignore({"head_dim", "num_heads", "block_norm_eps", "block_dim", "block_use_swiglu", "block_mlp_init_scale",
                 "block_out_init_scale", "block_use_xavier_init", "conv_dim", "conv_dim_out", "conv_use_xavier_init",
                 "use_pos_enc", "theta"});
  accept_transformers_keys(fields, config, out);
  return out;
}

ModelConfig read_lfm2(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  return read_either(config, where, shape_of, false);
}
ModelConfig read_lfm2_moe(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  return read_either(config, where, shape_of, true);
}

struct Spelling {
  const char* name;
  const char* file;
};
constexpr Spelling kSpellings[] = {
    {"conv.norm.", "operator_norm."},
    {"conv.in_proj.", "conv.in_proj."},
    {"conv.conv.", "conv.conv."},
    {"conv.out_proj.", "conv.out_proj."},
    {"full_attention.norm.", "operator_norm."},
    {"full_attention.q_norm.", "self_attn.q_layernorm."},
    {"full_attention.k_norm.", "self_attn.k_layernorm."},
    {"full_attention.", "self_attn."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.router.", "feed_forward.gate."},
    {"ffn.expert_bias", "feed_forward.expert_bias"},
    {"ffn.gate.", "feed_forward.w1."},
    {"ffn.up.", "feed_forward.w3."},
    {"ffn.down.", "feed_forward.w2."},
};

int64_t experts_in(const ModelConfig& config, int64_t layer) {
  for (const Sublayer& sublayer : config.sublayers) {
    if (sublayer.layer == layer && sublayer.block == "moe") return sublayer.options.at("num_experts").get<int64_t>();
  }
  return 0;
}

// rest "7.gate.weight": published files hold an expert's matrices one by one; transformers 5 stacks those of all
// experts, gate above up.
std::vector<TensorSource> expert_sources(const ModelConfig& config, int64_t layer, const std::string& rest) {
  const size_t dot = rest.find('.');
  const std::string expert = rest.substr(0, dot), matrix = rest.substr(dot + 1);
  const bool down = matrix == "down.weight";
  const char* const file = down ? "w2" : matrix == "gate.weight" ? "w1" : "w3";
  const std::string prefix = fmt::format("model.layers.{}.feed_forward.experts.", layer);
  return {{fmt::format("{}{}.{}.weight", prefix, expert, file)},
          {prefix + (down ? "down_proj" : "gate_up_proj"), true, experts_in(config, layer)}};
}

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  if (name == "embeddings.weight") return {{"model.embed_tokens.weight"}};
  if (name == "out_norm.weight") return {{"model.embedding_norm.weight"}};
  if (name == "lm_head.weight") return {{name}};
  const LayerName place = split_layer(name);
  if (std::string rest = place.rest; strip_prefix(rest, "ffn.experts.")) {
    return expert_sources(config, place.layer, rest);
  }
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (strip_prefix(rest, spelling.name))
      return {{fmt::format("model.layers.{}.{}{}", place.layer, spelling.file, rest)}};
  }
  return {{"model." + name}};
}

bool ignorable(const ModelConfig& config, const std::string& tensor) {
  return config.tie_word_embeddings && tensor == "lm_head.weight";
}

Json from_gguf(KeyReader& keys, bool experts) {
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

void to_gguf(KeyWriter& out, bool experts) {
  out.common();
  out.attention();
  const int64_t kv_heads = out.options("attention").value("num_kv_heads", int64_t{0});
  std::vector<int32_t> schedule(static_cast<size_t>(out.config().num_layers), 0);
  for (const Sublayer& sublayer : out.config().sublayers) {
    if (sublayer.block == "attention") schedule[static_cast<size_t>(sublayer.layer)] = static_cast<int32_t>(kv_heads);
  }
  out.put("attention.head_count_kv", schedule);
  out.count("shortconv.l_cache", out.options("short_conv").value("kernel_size", int64_t{3}));
  const Json dense = out.options("swiglu"), moe = out.options("moe");
  if (!experts) {
    return out.count("feed_forward_length", dense.value("intermediate_size", int64_t{1}));
  }
  const Json of_dense = stated(out.config().source, "intermediate_size", 7168);
  out.count("feed_forward_length", stated(dense, "intermediate_size", of_dense).get<int64_t>());
  const auto is_dense = [](const Sublayer& sublayer) { return sublayer.block == "swiglu"; };
  out.count("leading_dense_block_count",
            std::count_if(out.config().sublayers.begin(), out.config().sublayers.end(), is_dense));
  if (moe.empty()) fail(ErrorKind::kInput, "GGUF: a lfm2_moe without experts, expected some layer to have them");
  out.count("expert_count", moe.at("num_experts").get<int64_t>());
  out.count("expert_used_count", moe.at("num_experts_per_tok").get<int64_t>());
  out.count("expert_feed_forward_length", moe.at("intermediate_size").get<int64_t>());
  out.count("expert_gating_func", 2);  // sigmoid
  out.real("expert_weights_scale", moe.at("routed_scaling_factor").get<double>());
  out.put("expert_weights_norm", moe.at("norm_topk_prob").get<bool>());
}

constexpr GgufName kGgufNames[] = {
    {"full_attention.norm.", "attn_norm."},
    {"full_attention.q_proj.", "attn_q."},
    {"full_attention.k_proj.", "attn_k."},
    {"full_attention.v_proj.", "attn_v."},
    {"full_attention.out_proj.", "attn_output."},
    {"full_attention.q_norm.", "attn_q_norm."},
    {"full_attention.k_norm.", "attn_k_norm."},
    {"conv.norm.", "attn_norm."},
    {"conv.in_proj.", "shortconv.in_proj."},
    {"conv.conv.", "shortconv.conv."},
    {"conv.out_proj.", "shortconv.out_proj."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.gate.", "ffn_gate."},
    {"ffn.up.", "ffn_up."},
    {"ffn.down.", "ffn_down."},
    {"ffn.router.", "ffn_gate_inp."},
    {"ffn.expert_bias", "exp_probs_b.bias"},
};

std::vector<TensorSource> gguf_sources(const ModelConfig& config, const std::string& name) {
  if (name == "out_norm.weight") return {{"token_embd_norm.weight"}, {"output_norm.weight"}};  // under either name
  const LayerName place = split_layer(name);
  if (std::string rest = place.rest; strip_prefix(rest, "ffn.experts.")) {
    const std::string matrix = rest.substr(rest.find('.') + 1);  // "gate.weight"
    const std::string file = fmt::format("blk.{}.ffn_{}_exps.weight", place.layer, matrix.substr(0, matrix.find('.')));
    return {{file, true, experts_in(config, place.layer)}};
  }
  return gguf_places(name, kGgufNames);
}

Json dense_from_gguf(KeyReader& keys) { return from_gguf(keys, false); }
Json experts_from_gguf(KeyReader& keys) { return from_gguf(keys, true); }
void dense_to_gguf(KeyWriter& out) { to_gguf(out, false); }
void experts_to_gguf(KeyWriter& out) { to_gguf(out, true); }

constexpr Renamed kAsked[] = {{kFirstGate, "blk.0.ffn_gate.weight"}};
constexpr GgufSide kDenseGguf{.architecture = "lfm2",
                              .read = dense_from_gguf,
                              .write = dense_to_gguf,
                              .names = {gguf_sources, gguf_ignorable},
                              .asked = kAsked};
constexpr GgufSide kExpertsGguf{.architecture = "lfm2moe",
                                .read = experts_from_gguf,
                                .write = experts_to_gguf,
                                .names = {gguf_sources, gguf_ignorable}};

}  // namespace

Family lfm2_family() {
  return {.model_type = "lfm2",
          .read = read_lfm2,
          .names = {sources, ignorable},
          .gguf = &kDenseGguf,
          .unties_other_heads = true};
}
Family lfm2_moe_family() {
  return {.model_type = "lfm2_moe",
          .read = read_lfm2_moe,
          .names = {sources, ignorable},
          .gguf = &kExpertsGguf,
          .unties_other_heads = true};
}

}  // namespace carousel::model
