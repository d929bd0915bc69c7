// SPDX-License-Identifier: Apache-2.0
// Tensor names of GGUF, by architecture: those of llama.cpp where it has the architecture, and in their style for
// xlstm. Llama's query and key rows are stored in the order of interleaved rotation, pair by pair.
#include <fmt/format.h>

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/model/gguf/gguf.h"

namespace carousel::model {
namespace {

// The part of a name after the layer.
struct Spelling {
  const char* name;
  const char* file;
};
constexpr Spelling kSpellings[] = {
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
    {"mlstm.norm.", "attn_norm."},
    {"mlstm.q.", "mlstm.q."},
    {"mlstm.k.", "mlstm.k."},
    {"mlstm.v.", "mlstm.v."},
    {"mlstm.igate.", "mlstm.igate."},
    {"mlstm.fgate.", "mlstm.fgate."},
    {"mlstm.ogate.", "mlstm.ogate."},
    {"mlstm.head_norm.", "mlstm.norm."},
    {"mlstm.out.", "mlstm.out."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.gate.", "ffn_gate."},
    {"ffn.up.", "ffn_up."},
    {"ffn.down.", "ffn_down."},
    {"ffn.router.", "ffn_gate_inp."},
    {"ffn.expert_bias", "exp_probs_b.bias"},
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
  if (config.model_type != "llama" || !(query || key) || attention == nullptr) return {};
  const auto all_heads = attention->options.at("num_heads").get<int64_t>();
  const int64_t heads = query ? all_heads : attention->options.at("num_kv_heads").get<int64_t>();
  const int64_t dim = attention->options.value("head_dim", config.hidden_size / all_heads);
  if (dim % 2 != 0) return {};  // the block refuses it
  if (place.rest.ends_with(".bias")) return Permutation{{heads * dim}, {heads, 2, dim / 2}, {0, 2, 1}};
  return Permutation{{heads * dim, config.hidden_size}, {heads, 2, dim / 2, config.hidden_size}, {0, 2, 1, 3}};
}

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  if (gguf_architecture(config) == "carousel") return {{name}};
  if (name == "embeddings.weight") return {{"token_embd.weight"}};
  if (name == "lm_head.weight") return {{"output.weight"}};
  if (name == "out_norm.weight" && config.model_type.starts_with("lfm2")) {
    return {{"token_embd_norm.weight"}, {"output_norm.weight"}};  // the final norm under either name
  }
  if (name.starts_with("out_norm.")) return {{"output_norm." + name.substr(9)}};
  const LayerName place = split_layer(name);
  const std::string block = fmt::format("blk.{}.", place.layer);
  if (std::string rest = place.rest; strip_prefix(rest, "ffn.experts.")) {
    const std::string matrix = rest.substr(rest.find('.') + 1);  // "gate.weight"
    const Sublayer* moe = find_block(config, place.layer, "moe");
    const int64_t experts = moe == nullptr ? 0 : moe->options.at("num_experts").get<int64_t>();
    return {{fmt::format("{}ffn_{}_exps.weight", block, matrix.substr(0, matrix.find('.'))), true, experts}};
  }
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (!strip_prefix(rest, spelling.name)) continue;
    TensorSource source{block + spelling.file + rest};
    source.permuted = interleaved(config, place);
    return {source};
  }
  return {{name}};
}

// Ignorable are the rotary table, which is computed here, and a tied model's copy of its embeddings.
bool ignorable(const ModelConfig& config, const std::string& tensor) {
  return tensor == "rope_freqs.weight" || (config.tie_word_embeddings && tensor == "output.weight");
}

ModelConfig not_read(const Json&, const std::string& where, const ShapeOf&) {
  fail(ErrorKind::kInput, "{}: a GGUF file's config comes from its keys", where);
}

}  // namespace

Family gguf_family(const std::string& model_type) {
  Family family = find_family(model_type, "GGUF");
  family.read = not_read;
  family.sources = sources;
  family.ignorable = ignorable;
  return family;
}

Family spelling_of(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where) {
  const bool gguf = checkpoint != nullptr && checkpoint->gguf() != nullptr;
  return gguf ? gguf_family(config.model_type) : find_family(config.model_type, where);
}

std::string gguf_architecture(const ModelConfig& config) {
  const auto all = [&](std::initializer_list<const char*> blocks) {
    return std::all_of(config.sublayers.begin(), config.sublayers.end(), [&](const Sublayer& sublayer) {
      return std::find(blocks.begin(), blocks.end(), sublayer.block) != blocks.end();
    });
  };
  const auto wired = [](const Sublayer& sublayer) { return sublayer.options.contains("wiring"); };
  if (std::any_of(config.sublayers.begin(), config.sublayers.end(), wired)) return "carousel";
  if (config.model_type == "llama") return "llama";
  if (config.model_type == "lfm2") return "lfm2";
  if (config.model_type == "lfm2_moe") return "lfm2moe";
  if (config.model_type == "xlstm" && all({"mlstm", "swiglu"})) return "xlstm";
  return "carousel";
}

ShapeOf shapes_of(const formats::Checkpoint* checkpoint) {
  if (checkpoint == nullptr) return {};
  return [checkpoint](const std::string& name) -> std::optional<Shape> {
    // The published names that families look at, as GGUF spells them.
    static constexpr std::pair<const char*, const char*> kAsked[] = {
        {"model.layers.0.feed_forward.w1.weight", "blk.0.ffn_gate.weight"},
        {"backbone.out_norm.weight", "output_norm.weight"},
        {"backbone.out_norm.bias", "output_norm.bias"},
    };
    std::string file_name = name;
    for (const auto& [published, gguf] : kAsked) {
      if (checkpoint->gguf() != nullptr && name == published) file_name = gguf;
    }
    const formats::TensorEntry* entry = checkpoint->find(file_name);
    return entry == nullptr ? std::nullopt : std::optional<Shape>(entry->shape);
  };
}

}  // namespace carousel::model
