// SPDX-License-Identifier: Apache-2.0
// xLSTM-7B's kind (arXiv:2503.13427): transformers' "xlstm" config, its tensor names and those of the xlstm package,
// with separate ("single") or concatenated ("fused") projections.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/key_reader.h"
#include "carousel/model/gguf/key_writer.h"
#include "carousel/model/gguf/names.h"

namespace carousel::model {
namespace {

constexpr int64_t kChunkSize = 64;
constexpr const char* kOutNorm = "backbone.out_norm.weight";
constexpr const char* kOutNormBias = "backbone.out_norm.bias";

void check_twin(const std::string& where, const char* a, int64_t value_a, const char* b, int64_t value_b) {
  if (value_a != value_b) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} and \"{}\" is {}, expected the same number", where, a, value_a, b,
         value_b);
  }
}

// null is a value here: no cap, which is 0 beyond this family. An absent key is the default. The reference caps by 0
// too, and computes 0 tanh(x / 0).
double read_cap(Fields& fields, const char* key, double fallback) {
  const Json* value = fields.present(key);
  if (value != nullptr && value->is_null()) return 0.0;
  const double cap = fields.number(key, 0, 1e9, fallback);
  if (cap == 0) {
    fail(ErrorKind::kInput, "{}: \"{}\" is 0, expected a number above 0, or null for no cap", fields.where(), key);
  }
  return cap;
}

void refuse_other_kernels(Fields& fields) {
  for (const char* key : {"chunkwise_kernel", "sequence_kernel", "step_kernel"}) {
    const std::string kernel = fields.string(key, "native");
    if (kernel.find("siging") != std::string::npos) {
      fail(ErrorKind::kInput,
           "{}: \"{}\" is \"{}\": the sigmoid input gate (mLSTMsig) is not supported, expected an "
           "exponential-gate kernel",
           fields.where(), key, kernel);
    }
  }
}

// Fields that steer the reference's implementation and leave its result, up to rounding, alone.
void read_runtime_fields(Fields& fields, ModelConfig& out) {
  refuse_other_kernels(fields);
  fields.choice("mode", {"inference", "train", "train_with_padding"}, "inference");
  fields.integer("max_inference_chunksize", 1, INT64_MAX, 16384);
  fields.boolean("return_last_states", true);
  fields.boolean("norm_reduction_force_float32", true);
  for (const char* key : {"autocast_kernel_dtype", "inference_state_dtype"}) {
    const std::string dtype = fields.choice(key, {"float32", "bfloat16", "float16"}, "float32");
    if (dtype != "float32" && std::string(key) == "inference_state_dtype") {
      out.warnings.push_back(
          fmt::format("{}: \"{}\" is \"{}\"; states are kept in float32", fields.where(), key, dtype));
    }
  }
}

ModelConfig read(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  Fields fields(config, where);
  ModelConfig out;
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim, 50304);
  out.hidden_size = fields.integer("hidden_size", 1, kMaxDim, fields.integer("embedding_dim", 1, kMaxDim, 4096));
  check_twin(where, "embedding_dim", fields.integer("embedding_dim", 1, kMaxDim, out.hidden_size), "hidden_size",
             out.hidden_size);
  out.num_layers = fields.integer("num_hidden_layers", 0, kMaxLayers, fields.integer("num_blocks", 0, kMaxLayers, 32));
  check_twin(where, "num_blocks", fields.integer("num_blocks", 0, kMaxLayers, out.num_layers), "num_hidden_layers",
             out.num_layers);
  const bool bias = fields.boolean("use_bias", false);
  const double eps = fields.number("norm_eps", 0, 1, 1e-6);
  out.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  out.logit_soft_cap = read_cap(fields, "output_logit_soft_cap", 30.0);
  out.eos_token_ids = read_eos(fields);
  fields.choice("weight_mode", {"single", "fused"}, "single");
  read_runtime_fields(fields, out);

  // The package leaves the norm out when told to; transformers ignores the field and always has the tensor.
  out.final_norm = {ops::Norm::Kind::kRms, eps, false};
  const auto in_file = [&](const char* name) { return shape_of && shape_of(name).has_value(); };
  const bool has_norm = in_file(kOutNorm) || in_file("out_norm.weight");
  if (!fields.boolean("add_out_norm", true) && !has_norm) out.final_norm.kind = ops::Norm::Kind::kNone;
  out.final_norm.bias = in_file(kOutNormBias) || in_file("out_norm.bias");

  Json mlstm{{"num_heads", fields.integer("num_heads", 1, kMaxDim, 8)},
             {"qk_dim_factor", fields.number("qk_dim_factor", 0, 64, 0.5)},
             {"v_dim_factor", fields.number("v_dim_factor", 0, 64, 1.0)},
             {"use_bias", bias},
             {"gate_soft_cap", read_cap(fields, "gate_soft_cap", 15.0)},
             {"eps", fields.number("eps", 0, 1, 1e-6)},
             {"norm_eps", eps}};
  // The chunk into which transformers cuts a call: only a profile that follows transformers uses it.
  const int64_t chunk = fields.integer("chunk_size", 1, 65536, kChunkSize);
  if (chunk != kChunkSize) mlstm["chunk_size"] = chunk;
  Json ffn{{"proj_factor", fields.number("ffn_proj_factor", 0, 1024, 2.667)},
           {"round_up_to_multiple_of", fields.integer("ffn_round_up_to_multiple_of", 1, 1 << 20, 64)},
           {"use_bias", bias}};
  LayerPlan plan;
  plan.norm = {ops::Norm::Kind::kRms, eps, bias};
  plan.layer_types = fields.strings("layer_types", kMaxLayers);
  if (!fields.has("layer_types")) plan.layer_types.assign(static_cast<size_t>(out.num_layers), "mlstm");
  check_twin(where, "layer_types (its length)", static_cast<int64_t>(plan.layer_types.size()), "num_hidden_layers",
             out.num_layers);
  Json sections = Json::object();
  for (const std::string& name : section_names()) sections[name] = fields.object(name.c_str());
  sections["mlstm_config"].update(mlstm);
  sections["ffn_config"].update(ffn);
  plan.section = [&](const std::string& name) { return sections[name]; };
  out.sublayers = expand_layers(plan, where);
  accept_transformers_keys(fields, config, out);
  return out;
}

// The part of a name after the layer, in the files' spelling; fused: the tensor that holds it among others.
struct Spelling {
  const char* name;
  const char* single;
  const char* fused;  // nullptr: the same in both modes
};
constexpr Spelling kSpellings[] = {
    {"mlstm.norm.", "norm_mlstm.", nullptr},
    {"mlstm.q.", "mlstm_layer.q.", "mlstm_layer.qkv_opreact."},
    {"mlstm.k.", "mlstm_layer.k.", "mlstm_layer.qkv_opreact."},
    {"mlstm.v.", "mlstm_layer.v.", "mlstm_layer.qkv_opreact."},
    {"mlstm.ogate.", "mlstm_layer.ogate_preact.", "mlstm_layer.qkv_opreact."},
    {"mlstm.igate.", "mlstm_layer.igate_preact.", "mlstm_layer.ifgate_preact."},
    {"mlstm.fgate.", "mlstm_layer.fgate_preact.", "mlstm_layer.ifgate_preact."},
    {"mlstm.head_norm.", "mlstm_layer.multihead_norm.", nullptr},
    {"mlstm.out.", "mlstm_layer.out_proj.", nullptr},
    {"ffn.norm.", "norm_ffn.", nullptr},
    {"ffn.gate.", "ffn.proj_up_gate.", "ffn.proj_up_gate_z."},
    {"ffn.up.", "ffn.proj_up.", "ffn.proj_up_gate_z."},
    {"ffn.down.", "ffn.proj_down.", nullptr},
};

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  if (name == "embeddings.weight") return {{"backbone.embeddings.weight"}, {"embedding.weight"}};
  if (name == "lm_head.weight") return {{name}};
  const LayerName place = split_layer(name);
  if (place.layer < 0) return {{"backbone." + name}, {name}};
  const std::string block = fmt::format("backbone.blocks.{}.", place.layer);
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (!strip_prefix(rest, spelling.name)) continue;
    std::vector<TensorSource> found{{block + spelling.single + rest}};
    if (spelling.fused != nullptr) found.push_back({block + spelling.fused + rest, true});
    if (found.size() == 2 && stated(config.source, "weight_mode", "single") == "fused") std::swap(found[0], found[1]);
    return found;
  }
  return {{block + place.rest}};
}

bool ignorable(const ModelConfig& config, const std::string& tensor) {
  return config.tie_word_embeddings && tensor == "lm_head.weight";
}

// The config.yaml of the package's xlstm_large.
bool implied_by(const Json& config) {
  return config.contains("embedding_dim") && config.contains("num_heads") && config.contains("num_blocks");
}

// f with trunc(hidden * f) == width: the family's configs give widths as shares of the hidden size.
double share(int64_t width, int64_t hidden) {
  double factor = static_cast<double>(width) / static_cast<double>(hidden);
  while (static_cast<int64_t>(static_cast<double>(hidden) * factor) < width) factor = std::nextafter(factor, INFINITY);
  return factor;
}

Json cap(double value) { return value == 0 ? Json() : Json(value); }

Json from_gguf(KeyReader& keys) {
  Json out{{"model_type", "xlstm"}, {"architectures", {"xLSTMForCausalLM"}}};
  read_common_keys(keys, out);
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

void to_gguf(KeyWriter& out) {
  out.common();
  const Json mlstm = out.options("mlstm");
  const int64_t heads = stated(mlstm, "num_heads", stated(out.config().source, "num_heads", 8)).get<int64_t>();
  out.count("mlstm.head_count", heads);
  out.count("mlstm.key_length", out.rows("layers.0.mlstm.q.weight") / heads);
  out.count("mlstm.value_length", out.rows("layers.0.mlstm.v.weight") / heads);
  out.real("mlstm.epsilon", mlstm.value("eps", 1e-6));
  out.real("mlstm.gate_soft_cap", mlstm.value("gate_soft_cap", 15.0));
  out.real("final_logit_softcapping", out.config().logit_soft_cap);
  out.count("feed_forward_length", out.rows("layers.0.ffn.gate.weight"));
  if (out.config().final_norm.kind == ops::Norm::Kind::kNone) out.put("output_norm", false);
}

constexpr GgufName kGgufNames[] = {
    {"mlstm.norm.", "attn_norm."},    {"mlstm.q.", "mlstm.q."},
    {"mlstm.k.", "mlstm.k."},         {"mlstm.v.", "mlstm.v."},
    {"mlstm.igate.", "mlstm.igate."}, {"mlstm.fgate.", "mlstm.fgate."},
    {"mlstm.ogate.", "mlstm.ogate."}, {"mlstm.head_norm.", "mlstm.norm."},
    {"mlstm.out.", "mlstm.out."},     {"ffn.norm.", "ffn_norm."},
    {"ffn.gate.", "ffn_gate."},       {"ffn.up.", "ffn_up."},
    {"ffn.down.", "ffn_down."},
};

std::vector<TensorSource> gguf_sources(const ModelConfig&, const std::string& name) {
  return gguf_places(name, kGgufNames);
}

// Its keys know one kind of mixer.
bool all_mlstm(const ModelConfig& config) {
  return std::all_of(config.sublayers.begin(), config.sublayers.end(),
                     [](const Sublayer& sublayer) { return sublayer.block == "mlstm" || sublayer.block == "swiglu"; });
}

constexpr Renamed kAsked[] = {{kOutNorm, "output_norm.weight"}, {kOutNormBias, "output_norm.bias"}};
constexpr GgufSide kGguf{.architecture = "xlstm",
                         .read = from_gguf,
                         .write = to_gguf,
                         .names = {gguf_sources, gguf_ignorable},
                         .asked = kAsked,
                         .holds = all_mlstm};

}  // namespace

Family xlstm_family() {
  return {.model_type = "xlstm",
          .read = read,
          .names = {sources, ignorable},
          .implied_by = implied_by,
          .gguf = &kGguf,
          .unties_other_heads = true};
}

}  // namespace carousel::model
