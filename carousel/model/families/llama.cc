// SPDX-License-Identifier: Apache-2.0
// Llama (1 to 3): attention in every layer.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/key_reader.h"
#include "carousel/model/gguf/key_writer.h"
#include "carousel/model/gguf/names.h"

namespace carousel::model {
namespace {

ModelConfig read(const Json& config, const std::string& where, const ShapeOf&) {
  Fields fields(config, where);
  ModelConfig out;
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim, 32000);
  out.hidden_size = fields.integer("hidden_size", 1, kMaxDim, 4096);
  out.num_layers = fields.integer("num_hidden_layers", 0, kMaxLayers, 32);
  const double eps = fields.number("rms_norm_eps", 0, 1, 1e-6);
  out.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  out.eos_token_ids = read_eos(fields);
  out.padding_token = read_padding(fields, out.vocab_size);
  out.final_norm.eps = eps;
  fields.choice("hidden_act", {"silu", "swish"}, "silu");
  if (const int64_t slices = fields.integer("pretraining_tp", 0, 1 << 20, 1); slices > 1) {
    fail(ErrorKind::kInput, "{}: \"pretraining_tp\" is {}, expected 1", where, slices);
  }

  const int64_t heads = fields.integer("num_attention_heads", 1, kMaxDim, 32);
  Json attention{{"num_heads", heads},
                 {"num_kv_heads", fields.integer("num_key_value_heads", 1, kMaxDim, heads)},
                 {"use_bias", fields.boolean("attention_bias", false)},
                 {"norm_eps", eps}};
  if (fields.has("head_dim")) attention["head_dim"] = fields.integer("head_dim", 1, kMaxDim);
  read_rope(fields, 1e4, attention);
  const Json ffn{{"intermediate_size", fields.integer("intermediate_size", 1, int64_t{1} << 30, 11008)},
                 {"use_bias", fields.boolean("mlp_bias", false)}};

  LayerPlan plan;
  plan.norm.eps = eps;
  plan.layer_types.assign(static_cast<size_t>(out.num_layers), "full_attention");
  plan.section = [&](const std::string& name) { return name == "attention_config" ? attention : ffn; };
  out.sublayers = expand_layers(plan, where);
  fields.ignore({"head_dim"});
  accept_transformers_keys(fields, config, out);
  return out;
}

struct Spelling {
  const char* name;
  const char* file;
};
constexpr Spelling kSpellings[] = {
    {"full_attention.norm.", "input_layernorm."},
    {"full_attention.out_proj.", "self_attn.o_proj."},
    {"full_attention.", "self_attn."},
    {"ffn.norm.", "post_attention_layernorm."},
    {"ffn.", "mlp."},
};

std::vector<TensorSource> sources(const ModelConfig&, const std::string& name) {
  if (name == "embeddings.weight") return {{"model.embed_tokens.weight"}};
  if (name == "out_norm.weight") return {{"model.norm.weight"}};
  if (name == "lm_head.weight") return {{name}};
  const LayerName place = split_layer(name);
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (!strip_prefix(rest, spelling.name)) continue;
    if (rest == "gate.weight" || rest == "up.weight" || rest == "down.weight" || rest == "gate.bias" ||
        rest == "up.bias" || rest == "down.bias") {
      rest.insert(rest.find('.'), "_proj");
    }
    return {{fmt::format("model.layers.{}.{}{}", place.layer, spelling.file, rest)}};
  }
  return {{"model." + name}};
}

// Old conversions store the rotary table, which is computed here.
bool ignorable(const ModelConfig& config, const std::string& tensor) {
  const bool rotary = tensor.find("rotary_emb.inv_freq") != std::string::npos;
  return rotary || (config.tie_word_embeddings && tensor == "lm_head.weight");
}

Json from_gguf(KeyReader& keys) {
  Json out{{"model_type", "llama"}, {"architectures", {"LlamaForCausalLM"}}};
  read_common_keys(keys, out);
  const std::vector<int64_t> schedule = read_attention_keys(keys, 1e4, out);
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

void to_gguf(KeyWriter& out) {
  out.common();
  out.attention();
  out.count("attention.head_count_kv", out.options("attention").value("num_kv_heads", int64_t{1}));
  out.count("feed_forward_length", out.options("swiglu").value("intermediate_size", int64_t{1}));
}

constexpr GgufName kGgufNames[] = {
    {"full_attention.norm.", "attn_norm."},
    {"full_attention.q_proj.", "attn_q."},
    {"full_attention.k_proj.", "attn_k."},
    {"full_attention.v_proj.", "attn_v."},
    {"full_attention.out_proj.", "attn_output."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.gate.", "ffn_gate."},
    {"ffn.up.", "ffn_up."},
    {"ffn.down.", "ffn_down."},
};

const Sublayer* find_block(const ModelConfig& config, int64_t layer, const std::string& block) {
  const auto same = std::find_if(config.sublayers.begin(), config.sublayers.end(), [&](const Sublayer& sublayer) {
    return sublayer.layer == layer && sublayer.block == block;
  });
  return same == config.sublayers.end() ? nullptr : &*same;
}

// Row pair i of a head, (i, i + d/2), is (2i, 2i + 1) in the file.
std::optional<Permutation> interleaved(const ModelConfig& config, const LayerName& place) {
  const bool query = place.rest.starts_with("full_attention.q_proj.");
  const bool key = place.rest.starts_with("full_attention.k_proj.");
  const Sublayer* attention = find_block(config, place.layer, "attention");
  if (!(query || key) || attention == nullptr) return {};
  const auto all_heads = attention->options.at("num_heads").get<int64_t>();
  const int64_t heads = query ? all_heads : attention->options.at("num_kv_heads").get<int64_t>();
  const int64_t dim = attention->options.value("head_dim", config.hidden_size / all_heads);
  if (dim % 2 != 0) return {};  // refused by the block
  if (place.rest.ends_with(".bias")) return Permutation{{heads * dim}, {heads, 2, dim / 2}, {0, 2, 1}};
  return Permutation{{heads * dim, config.hidden_size}, {heads, 2, dim / 2, config.hidden_size}, {0, 2, 1, 3}};
}

std::vector<TensorSource> gguf_sources(const ModelConfig& config, const std::string& name) {
  std::vector<TensorSource> found = gguf_places(name, kGgufNames);
  found.front().permuted = interleaved(config, split_layer(name));
  return found;
}

constexpr GgufSide kGguf{
    .architecture = "llama", .read = from_gguf, .write = to_gguf, .names = {gguf_sources, gguf_ignorable}};

}  // namespace

Family llama_family() {
  return {
      .model_type = "llama", .read = read, .names = {sources, ignorable}, .gguf = &kGguf, .unties_other_heads = true};
}

}  // namespace carousel::model
