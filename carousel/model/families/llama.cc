// SPDX-License-Identifier: Apache-2.0
// Llama (1 to 3): attention in every layer.
#include <fmt/format.h>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

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

}  // namespace

Family llama_family() { return {"llama", read, sources, ignorable}; }

}  // namespace carousel::model
