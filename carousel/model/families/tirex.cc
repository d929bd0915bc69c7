// SPDX-License-Identifier: Apache-2.0
// TiRex (arXiv:2505.23719): its settings, as a Lightning checkpoint holds them or flat in a config.json, and the names
// of its tensors.
#include "carousel/blocks/limits.h"
#include "carousel/model/families/family.h"

#include <fmt/format.h>

#include "carousel/core/error.h"

namespace carousel::model {
namespace {

constexpr size_t kMaxQuantiles = 999;
constexpr double kNormEps = 1e-6;
constexpr double kForgetGateMax = 15;  // the cell clamps the forget gate's pre-activation to this
constexpr int64_t kMaxContext = 1 << 20;
constexpr int64_t kMaxPatch = 1 << 16;

// All settings as one object, however they are nested; an inner setting wins over an outer one.
Json flattened(const Json& config, const std::string& where) {
  Json flat = config;
  for (const char* key : {"hyper_parameters", "model_config"}) {
    const auto inner = flat.find(key);
    if (inner == flat.end()) continue;
    if (!inner->is_object()) fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected an object", where, key, brief(*inner));
    const Json settings = *inner;
    flat.erase(key);
    flat.update(settings);
  }
  return flat;
}

std::vector<double> read_quantiles(Fields& fields) {
  const Json* list = fields.raw("quantiles");
  std::vector<double> levels;
  const auto wrong = [&] {
    fail(ErrorKind::kInput, "{}: \"quantiles\" is {}, expected increasing numbers > 0 and < 1, 0.5 among them",
         fields.where(), list == nullptr ? "missing" : brief(*list));
  };
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > kMaxQuantiles) wrong();
  bool median = false;
  for (const Json& level : *list) {
    if (!level.is_number()) wrong();
    const auto value = level.get<double>();
    if (!(value > 0 && value < 1) || (!levels.empty() && value <= levels.back())) wrong();
    levels.push_back(value);
    median |= value == 0.5;
  }
  if (!median) wrong();
  return levels;
}

void read_blocks(const Json& section, const std::string& where, ModelConfig& out) {
  Fields fields(section, where + ": \"block_kwargs\"");
  out.hidden_size = fields.integer("embedding_dim", 1, kMaxDim);
  out.num_layers = fields.integer("num_blocks", 0, kMaxLayers);
  const int64_t heads = fields.integer("num_heads", 1, blocks::kMaxHeads);
  const double factor = fields.number("ffn_proj_factor", 0, 1024, 2.6667);
  fields.integer("num_states", 4, 4, 4);
  fields.integer("num_gates", 4, 4, 4);
  const NormConfig norm{ops::Norm::Kind::kRms, kNormEps};
  out.final_norm = norm;
  const Json slstm{{"num_heads", heads}, {"conv_kernel_size", 0}, {"f_gate_max", kForgetGateMax}};
  for (int64_t i = 0; i < out.num_layers; ++i) {
    const std::string prefix = fmt::format("layers.{}.", i);
    out.sublayers.push_back({i, prefix + "slstm", "slstm", slstm, norm});
    out.sublayers.push_back({i, prefix + "ffn", "swiglu", Json{{"proj_factor", factor}}, norm});
  }
}

// Keys may lie under "hyper_parameters", "model_config" or flat.
ModelConfig read(const Json& config, const std::string& where, const ShapeOf&) {
  if (!config.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", where, brief(config));
  const Json flat = flattened(config, where);
  Fields fields(flat, where);
  ModelConfig out;
  PatchConfig& patches = out.patches;
  patches.context = fields.integer("train_ctx_len", 1, kMaxContext);
  patches.patch = fields.integer("input_patch_size", 1, kMaxPatch);
  const int64_t output_patch = fields.integer("output_patch_size", 1, kMaxPatch);
  if (output_patch != patches.patch || patches.context % patches.patch != 0) {
    fail(ErrorKind::kInput,
         "{}: \"input_patch_size\" {}, \"output_patch_size\" {}, \"train_ctx_len\" {}, expected two equal sizes that "
         "divide the third",
         where, patches.patch, output_patch, patches.context);
  }
  patches.hidden = fields.integer("input_ff_dim", 1, kMaxDim);
  patches.quantiles = read_quantiles(fields);
  if (fields.number("nan_mask_value", -1e30, 1e30, 0.0) != 0.0) {
    fail(ErrorKind::kInput, "{}: \"nan_mask_value\" is not 0", where);
  }
  read_blocks(fields.object("block_kwargs"), where, out);
  return out;
}

struct Spelling {
  const char* name;
  const char* file;
};
constexpr Spelling kSpellings[] = {
    {"slstm.norm.", "norm_slstm."},
    // The reference concatenates its fgate first, and its cell takes the first of the four for the input gate.
    {"slstm.igate.", "slstm_layer.fgate."},
    {"slstm.fgate.", "slstm_layer.igate."},
    {"slstm.recurrent", "slstm_layer.slstm_cell._recurrent_kernel_"},
    {"slstm.bias", "slstm_layer.slstm_cell._bias_"},
    {"slstm.head_norm.", "slstm_layer.group_norm."},
    {"slstm.", "slstm_layer."},
    {"ffn.norm.", "norm_ffn."},
    {"ffn.gate.", "ffn.proj_up_gate."},
    {"ffn.up.", "ffn.proj_up."},
    {"ffn.down.", "ffn.proj_down."},
};

std::vector<TensorSource> sources(const ModelConfig&, const std::string& name) {
  const LayerName place = split_layer(name);
  std::string rest = name;
  if (place.layer < 0) {
    if (strip_prefix(rest, "input.")) return {{"input_patch_embedding." + rest}};
    if (strip_prefix(rest, "output.")) return {{"output_patch_embedding." + rest}};
    return {{name}, {"block_stack." + name}};
  }
  for (const Spelling& spelling : kSpellings) {
    rest = place.rest;
    if (!strip_prefix(rest, spelling.name)) continue;
    const std::string file = fmt::format("blocks.{}.{}{}", place.layer, spelling.file, rest);
    return {{file}, {"block_stack." + file}};  // the published file has the prefix, later saves have not
  }
  return {{fmt::format("blocks.{}.{}", place.layer, place.rest)}};
}

bool ignorable(const ModelConfig&, const std::string&) { return false; }

bool implied_by(const Json& config) {
  const auto settings = config.find("model_config");  // of a Lightning checkpoint
  const Json& inner = settings != config.end() && settings->is_object() ? *settings : config;
  return inner.contains("input_patch_size");
}

}  // namespace

Family tirex_family() {
  return {.model_type = "tirex",
          .read = read,
          .names = {sources, ignorable},
          .kind = ModelKind::kForecaster,
          .implied_by = implied_by};
}

}  // namespace carousel::model
