// SPDX-License-Identifier: Apache-2.0
// The 2024 xLSTM (arXiv:2405.04517): the xlstm package's xLSTMLMModel, its config as plain constructor arguments and
// its state-dict names, with the LM's prefix and without. Recurrent matrices have two layouts, told apart by shape.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

namespace carousel::model {
namespace {

constexpr int64_t kMaxWidth = int64_t{1} << 26;
constexpr double kNormEps = 1e-5;
constexpr const char* kPrefix = "xlstm_block_stack.";
// The package's two implementations of the sLSTM hold R and its bias in different orders.
constexpr const char* kVanilla = "vanilla";  // R [H, 4*dh, dh]: gate and out, in; bias [4][H][dh]
constexpr const char* kCuda = "cuda";        // R [H, dh, 4*dh]: in, gate and out; bias [H][4][dh]

// The package derives keys with a leading underscore; they may be left over from another config.
void ignore_derived(Fields& fields, const Json& section) {
  for (const auto& [key, value] : section.items()) {
    if (key.starts_with('_')) fields.ignore({key.c_str()});
  }
}

// Width of an up-projection: factor * D in whole multiples.
int64_t up_width(Fields& fields, int64_t hidden, double fallback) {
  const double factor = fields.number("proj_factor", 0, 1024, fallback);
  const int64_t multiple = fields.integer("round_proj_up_to_multiple_of", 1, 1 << 20, 64);
  const bool up = fields.boolean("round_proj_up_dim_up", true);
  const double exact = factor * static_cast<double>(hidden) / static_cast<double>(multiple);
  const double width = (up ? std::ceil(exact) : std::floor(exact)) * static_cast<double>(multiple);
  if (width < 1 || width > static_cast<double>(kMaxWidth)) {
    fail(ErrorKind::kInput, "{}: the up-projection has {:g} channels, expected 1 to {}", fields.where(), width,
         kMaxWidth);
  }
  return static_cast<int64_t>(width);
}

Json read_mlstm(const Json& block, const std::string& where, int64_t hidden, bool bias) {
  Fields outer(block, where + ": \"mlstm_block\"");
  const Json section = outer.object("mlstm");
  ignore_derived(outer, block);
  outer.finish();
  Fields fields(section, where + ": \"mlstm_block.mlstm\"");
  Json options{{"num_heads", fields.integer("num_heads", 1, kMaxDim, 4)},
               {"inner_size", up_width(fields, hidden, 2.0)},
               {"conv_kernel_size", fields.integer("conv1d_kernel_size", 0, 1024, 4)},
               {"qkv_block_size", fields.integer("qkv_proj_blocksize", 1, kMaxWidth, 4)},
               {"use_bias", bias},
               {"ffn", false}};
  // The stack sets these, whatever the section says.
  fields.ignore({"embedding_dim", "bias", "dropout", "context_length"});
  ignore_derived(fields, section);
  fields.finish();
  return options;
}

// Accepts options that steer the package's kernels and do not change the result, up to rounding.
void ignore_kernel_options(Fields& fields) {
  fields.ignore({"hidden_size",
                 "embedding_dim",
                 "num_states",
                 "num_gates",
                 "gradient_recurrent_cut",
                 "gradient_recurrent_clipval",
                 "batch_size",
                 "input_shape",
                 "internal_input_shape",
                 "output_shape",
                 "constants",
                 "dtype",
                 "dtype_b",
                 "dtype_r",
                 "dtype_w",
                 "dtype_g",
                 "dtype_s",
                 "dtype_a",
                 "enable_automatic_mixed_precision",
                 "initial_val",
                 "dropout"});
}

Json read_slstm(const Json& section, const std::string& where, bool ffn, std::string& layout) {
  Fields fields(section, where + ": \"slstm_block.slstm\"");
  fields.choice("function", {"slstm"}, "slstm");
  if (fields.has("forward_clipval")) {
    fail(ErrorKind::kInput, "{}: \"forward_clipval\" is {}, expected null", fields.where(),
         brief(*fields.raw("forward_clipval")));
  }
  fields.ignore({"forward_clipval"});
  layout = fields.choice("backend", {kCuda, kVanilla}, kCuda);
  Json options{{"num_heads", fields.integer("num_heads", 1, kMaxDim, 4)},
               {"conv_kernel_size", fields.integer("conv1d_kernel_size", 0, 1024, 4)},
               {"head_norm_weight", fields.boolean("group_norm_weight", true)},
               {"bias_init", fields.choice("bias_init", {"powerlaw_blockdependent", "small_init", "standard", "zeros"},
                                           "powerlaw_blockdependent")},
               {"recurrent_init", fields.choice("recurrent_weight_init", {"zeros", "standard"}, "zeros")},
               {"ffn", ffn}};
  ignore_kernel_options(fields);
  ignore_derived(fields, section);
  fields.finish();
  return options;
}

Json read_feedforward(const Json& section, const std::string& where, int64_t hidden) {
  Fields fields(section, where + ": \"slstm_block.feedforward\"");
  fields.choice("ff_type", {"ffn_gated"}, "ffn_gated");
  Json options{{"intermediate_size", up_width(fields, hidden, 1.3)},
               {"activation", fields.choice("act_fn", {"gelu", "relu", "relu^2", "sigmoid", "swish", "selu"}, "gelu")},
               {"use_bias", fields.boolean("bias", false)},
               {"down_init", "hidden_size"}};
  fields.ignore({"embedding_dim", "dropout"});
  ignore_derived(fields, section);
  fields.finish();
  return options;
}

// Which blocks are sLSTM: "slstm_at" is a list or "all". Where the config has one kind only, all blocks are that kind.
std::vector<bool> read_slstm_at(Fields& fields, int64_t blocks, bool has_mlstm, bool has_slstm) {
  std::vector<bool> slstm(static_cast<size_t>(blocks), !has_mlstm);
  const Json* at = fields.raw("slstm_at");
  if (at != nullptr && at->is_string()) {
    fields.choice("slstm_at", {"all"}, "all");
    slstm.assign(slstm.size(), true);
  } else {
    for (const int64_t i : fields.integers("slstm_at", 0, std::max<int64_t>(0, blocks - 1), kMaxLayers)) {
      slstm[static_cast<size_t>(i)] = true;
    }
  }
  for (size_t i = 0; i < slstm.size(); ++i) {
    const bool listed = slstm[i];
    if (listed ? has_slstm : has_mlstm) continue;
    fail(ErrorKind::kInput, "{}: block {} is an {}, expected \"{}\" to describe it", fields.where(), i,
         listed ? "sLSTM" : "mLSTM", listed ? "slstm_block" : "mlstm_block");
  }
  return slstm;
}

// Both forms have the same number of elements, but never the same shape.
std::string found_layout(const ShapeOf& shape_of, const std::vector<bool>& slstm, const std::string& configured) {
  for (size_t i = 0; shape_of && i < slstm.size(); ++i) {
    if (!slstm[i]) continue;
    for (const char* prefix : {kPrefix, ""}) {
      const std::optional<Shape> shape =
          shape_of(fmt::format("{}blocks.{}.xlstm.slstm_cell._recurrent_kernel_", prefix, i));
      if (shape && shape->rank() == 3) return (*shape)[1] > (*shape)[2] ? kVanilla : kCuda;
    }
  }
  return configured;
}

ModelConfig read(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  Fields fields(config, where);
  ModelConfig out;
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim);
  out.hidden_size = fields.integer("embedding_dim", 1, kMaxDim, 128);
  out.num_layers = fields.integer("num_blocks", 0, kMaxLayers, 1);
  out.tie_word_embeddings = fields.boolean("tie_weights", false);
  out.eos_token_ids = read_eos(fields);
  const NormConfig norm{ops::Norm::Kind::kLayer, kNormEps, false, true};
  out.final_norm = norm;
  if (!fields.boolean("add_post_blocks_norm", true)) out.final_norm.kind = ops::Norm::Kind::kNone;
  const bool bias = fields.boolean("bias", false);
  // The package sizes a causal mask by it; nothing here has a longest sequence.
  fields.integer("context_length", -1, INT64_MAX, -1);
  fields.number("dropout", 0, 1, 0.0);

  const bool has_mlstm = fields.has("mlstm_block"), has_slstm = fields.has("slstm_block");
  const std::vector<bool> slstm_at = read_slstm_at(fields, out.num_layers, has_mlstm, has_slstm);
  Json mlstm, slstm, ffn;
  if (has_mlstm) mlstm = read_mlstm(fields.object("mlstm_block"), where, out.hidden_size, bias);
  if (has_slstm) {
    const Json block = fields.object("slstm_block");
    Fields outer(block, where + ": \"slstm_block\"");
    // Absent: the package's defaults; null: no feed-forward network.
    const Json* feedforward = outer.present("feedforward");
    const bool has_ffn = feedforward == nullptr || !feedforward->is_null();
    if (has_ffn) ffn = read_feedforward(outer.object("feedforward"), where, out.hidden_size);
    slstm = read_slstm(outer.object("slstm"), where, has_ffn, out.tensor_layout);
    ignore_derived(outer, block);
    outer.finish();
    out.tensor_layout = found_layout(shape_of, slstm_at, out.tensor_layout);
  }

  LayerPlan plan;
  plan.norm = norm;
  for (const bool is_slstm : slstm_at) plan.layer_types.emplace_back(is_slstm ? "slstm" : "mlstm_v1");
  plan.section = [&](const std::string& name) {
    return name == "mlstm_v1_config" ? mlstm : name == "slstm_config" ? slstm : ffn;
  };
  out.sublayers = expand_layers(plan, where);
  for (Sublayer& sublayer : out.sublayers) {
    const double last = static_cast<double>(std::max<int64_t>(1, out.num_layers - 1));
    if (sublayer.block == "slstm") sublayer.options["init_position"] = static_cast<double>(sublayer.layer) / last;
  }
  fields.ignore({"weight_decay_on_embedding", "add_embedding_dropout"});
  ignore_derived(fields, config);
  accept_transformers_keys(fields, config, out);
  return out;
}

// The part of a name after the layer, in the files' spelling.
struct Spelling {
  const char* name;
  const char* file;
  bool part = false;
};
constexpr Spelling kSpellings[] = {
    {"mlstm_v1.norm.", "xlstm_norm."},
    {"mlstm_v1.up.", "xlstm.proj_up."},
    {"mlstm_v1.conv.", "xlstm.conv1d.conv."},
    {"mlstm_v1.q.", "xlstm.q_proj."},
    {"mlstm_v1.k.", "xlstm.k_proj."},
    {"mlstm_v1.v.", "xlstm.v_proj."},
    {"mlstm_v1.igate.", "xlstm.mlstm_cell.igate."},
    {"mlstm_v1.fgate.", "xlstm.mlstm_cell.fgate."},
    {"mlstm_v1.head_norm.", "xlstm.mlstm_cell.outnorm."},
    {"mlstm_v1.skip", "xlstm.learnable_skip"},
    {"mlstm_v1.down.", "xlstm.proj_down."},
    {"slstm.norm.", "xlstm_norm."},
    {"slstm.conv.", "xlstm.conv1d.conv."},
    // The package feeds its igate to the forget gate and its fgate to the input gate (NX-AI/xlstm issue 98), and keeps
    // to it so that checkpoints stay readable.
    {"slstm.igate.", "xlstm.fgate."},
    {"slstm.fgate.", "xlstm.igate."},
    {"slstm.zgate.", "xlstm.zgate."},
    {"slstm.ogate.", "xlstm.ogate."},
    {"slstm.recurrent", "xlstm.slstm_cell._recurrent_kernel_"},
    {"slstm.bias", "xlstm.slstm_cell._bias_"},
    {"slstm.head_norm.", "xlstm.group_norm."},
    {"ffn.norm.", "ffn_norm."},
    {"ffn.gate.", "ffn.proj_up.", true},
    {"ffn.up.", "ffn.proj_up.", true},
    {"ffn.down.", "ffn.proj_down."},
};

std::optional<Permutation> vanilla_order(const ModelConfig& config, const LayerName& place) {
  const bool recurrent = place.rest == "slstm.recurrent";
  if (config.tensor_layout != kVanilla || !(recurrent || place.rest == "slstm.bias")) return {};
  const auto same = std::find_if(config.sublayers.begin(), config.sublayers.end(), [&](const Sublayer& sublayer) {
    return sublayer.layer == place.layer && sublayer.block == "slstm";
  });
  if (same == config.sublayers.end()) return {};
  const auto heads = same->options["num_heads"].get<int64_t>();
  const int64_t dh = config.hidden_size / heads;
  if (recurrent) return Permutation{{heads, 4 * dh, dh}, {heads, dh, 4 * dh}, {0, 2, 1}};
  return Permutation{{4 * config.hidden_size}, {heads, 4, dh}, {1, 0, 2}};
}

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  if (name == "embeddings.weight") return {{"token_embedding.weight"}};
  if (name == "lm_head.weight") return {{name}};
  TensorSource source{name};
  const LayerName place = split_layer(name);
  if (name == "out_norm.weight") source.file_name = "post_blocks_norm.weight";
  for (const Spelling& spelling : kSpellings) {
    std::string rest = place.rest;
    if (place.layer < 0 || !strip_prefix(rest, spelling.name)) continue;
    source.file_name = fmt::format("blocks.{}.{}{}", place.layer, spelling.file, rest);
    source.part = spelling.part;
    source.permuted = vanilla_order(config, place);
    break;
  }
  TensorSource in_lm = source;
  in_lm.file_name = kPrefix + source.file_name;
  return {in_lm, source};
}

// Ignorable are the mask's buffer, and a tied model's second name for its table.
bool ignorable(const ModelConfig& config, const std::string& tensor) {
  return tensor.ends_with("causal_mask") || (config.tie_word_embeddings && tensor == "lm_head.weight");
}

bool implied_by(const Json& config) { return config.contains("mlstm_block") || config.contains("slstm_block"); }

}  // namespace

Family xlstm_lm_family() {
  return {.model_type = "xlstm_lm", .read = read, .names = {sources, ignorable}, .implied_by = implied_by};
}

}  // namespace carousel::model
