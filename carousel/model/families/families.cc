// SPDX-License-Identifier: Apache-2.0
// The list of families, and the spelling they share.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "carousel/blocks/block.h"
#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

namespace carousel::model {

Family carousel_family();
Family cfc_family();
Family lfm2_family();
Family lfm2_moe_family();
Family llama_family();
Family ltc_family();
Family tirex_family();
Family xlstm_family();
Family xlstm_lm_family();

namespace {

// Layer types that are not simply the name of a block.
struct LayerAlias {
  const char* type;
  const char* block;
  const char* section;
};
constexpr LayerAlias kAliases[] = {
    {"conv", "short_conv", "conv_config"},
    {"sliding_attention", "attention", "sliding_attention_config"},
    {"full_attention", "attention", "attention_config"},
    {"ncps_cfc", "ncps_cfc", "ncps_config"},
    {"ncps_ltc", "ncps_ltc", "ncps_config"},
};
constexpr const char* kFfnBlock = "swiglu";
constexpr const char* kFfnSection = "ffn_config";
constexpr const char* kSliding = "sliding_attention";
constexpr int64_t kSlidingWindow = 256;  // LFM3's window
constexpr const char* kMoeBlock = "moe";
constexpr const char* kMoeSection = "moe_config";
constexpr const char* kFfnOnly = "ffn_only";
// Sections the config format reserves whether or not a block of this build reads them.
constexpr const char* kSections[] = {"mlstm_config",     "slstm_config", "conv_config",
                                     "attention_config", "ffn_config",   "ncps_config"};

bool has_alias(const std::string& block) {
  return std::any_of(std::begin(kAliases), std::end(kAliases),
                     [&](const LayerAlias& alias) { return block == alias.block; });
}

struct LayerType {
  std::string type, block, section;
};

std::vector<LayerType> layer_type_list() {
  std::vector<LayerType> types;
  for (const LayerAlias& alias : kAliases) types.push_back({alias.type, alias.block, alias.section});
  for (const blocks::Entry& entry : blocks::registry()) {
    const std::string name = entry.name;
    if (name != kFfnBlock && !has_alias(name)) types.push_back({name, name, name + "_config"});
  }
  return types;
}

LayerType find_layer_type(const std::string& type, const std::string& where) {
  for (const LayerType& candidate : layer_type_list()) {
    if (type == candidate.type) return candidate;
  }
  fail(ErrorKind::kInput, "{}: unknown layer type \"{}\"; known types: {}", where, type,
       fmt::join(layer_type_names(), ", "));
}

// The FFN of layer `index`: ffn_config's, or, where its "type" is "moe", moe_config's from "num_dense_layers" on.
Sublayer ffn_sublayer(const LayerPlan& plan, int64_t index, const std::string& where) {
  Json dense = plan.section(kFfnSection);
  Fields fields(dense, fmt::format("{}: \"{}\"", where, kFfnSection));
  const bool experts = fields.choice("type", {kFfnBlock, kMoeBlock}, kFfnBlock) == kMoeBlock;
  const int64_t dense_layers = experts ? fields.integer("num_dense_layers", 0, kMaxLayers, 0) : kMaxLayers;
  dense.erase("type");
  if (experts) dense.erase("num_dense_layers");
  const bool chosen = index >= dense_layers;
  return {index,
          fmt::format("layers.{}.ffn", index),
          chosen ? kMoeBlock : kFfnBlock,
          chosen ? plan.section(kMoeSection) : dense,
          plan.norm,
          true,
          plan.post_norm};
}

constexpr const char* kDefaultRope = "default";
constexpr const char* kStretchedRope = "llama3";

// Throws Error(kInput) for a type of rotary positions that is not implemented, even where another key takes precedence.
void refuse_rope_types(const Json& parameters, const std::string& where) {
  Fields rope(parameters, where);
  for (const char* key : {"rope_type", "type"}) {
    const std::string type = rope.string(key, kDefaultRope);
    if (type == kDefaultRope || type == kStretchedRope) continue;
    fail(ErrorKind::kInput, "{}: {} is \"{}\", expected one of: {}, {}", where, key, type, kDefaultRope,
         kStretchedRope);
  }
  for (const auto& [name, value] : parameters.items()) {
    if (!value.is_object()) continue;
    refuse_rope_types(value, where + ": \"" + name + "\"");
    fail(ErrorKind::kInput, "{}: \"{}\" has rotary positions of its own, expected the same for all layers", where,
         name);
  }
}

}  // namespace

const std::vector<Family>& families() {
  static const std::vector<Family> all{llama_family(), lfm2_family(),     lfm2_moe_family(),
                                       tirex_family(), xlstm_lm_family(), xlstm_family(),
                                       cfc_family(),   ltc_family(),      carousel_family()};
  return all;
}

const Family* known_family(const std::string& model_type) {
  for (const Family& family : families()) {
    if (model_type == family.model_type) return &family;
  }
  return nullptr;
}

const Family& find_family(const std::string& model_type, const std::string& where) {
  if (const Family* family = known_family(model_type)) return *family;
  std::vector<std::string> known;
  for (const Family& family : families()) known.emplace_back(family.model_type);
  std::sort(known.begin(), known.end());
  fail(ErrorKind::kInput, "{}: model_type \"{}\" is not supported; known types: {}", where, model_type,
       fmt::join(known, ", "));
}

std::string implied_model_type(const Json& config) {
  for (const Family& family : families()) {
    if (family.implied_by != nullptr && family.implied_by(config)) return family.model_type;
  }
  return "";
}

Json stated(const Json& config, const char* key, Json fallback) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return fallback;
  return *found;
}

ModelConfig parse_config(const Json& config, const std::string& where, const ShapeOf& shape_of) {
  if (!config.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", where, brief(config));
  if (!config.contains("model_type")) fail(ErrorKind::kInput, "{}: \"model_type\" is missing", where);
  if (!config["model_type"].is_string()) {
    fail(ErrorKind::kInput, "{}: \"model_type\" is {}, expected a string", where, brief(config["model_type"]));
  }
  const auto model_type = config["model_type"].get<std::string>();
  if (config.contains("quantization_config") && !config["quantization_config"].is_null()) {
    fail(ErrorKind::kInput, "{}: \"quantization_config\" is set; weights in F32, F16 or BF16 are expected", where);
  }
  const Family& family = find_family(model_type, where);
  ModelConfig out = family.read(config, where, shape_of);
  out.kind = family.kind;
  out.model_type = model_type;
  out.source = config;
  return out;
}

std::vector<std::string> section_names() {
  std::vector<std::string> names(std::begin(kSections), std::end(kSections));
  for (const LayerType& type : layer_type_list()) {
    if (std::find(names.begin(), names.end(), type.section) == names.end()) names.push_back(type.section);
  }
  return names;
}

std::vector<std::string> layer_type_names() {
  std::vector<std::string> names{kFfnOnly};
  for (const LayerType& type : layer_type_list()) names.push_back(type.type);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Sublayer> expand_layers(const LayerPlan& plan, const std::string& where) {
  std::vector<Sublayer> out;
  for (size_t i = 0; i < plan.layer_types.size(); ++i) {
    const std::string& type = plan.layer_types[i];
    const std::string prefix = fmt::format("layers.{}.", i);
    bool ffn = true;
    if (type != kFfnOnly) {
      const LayerType found = find_layer_type(type, where);
      Json options = plan.section(found.section);
      if (options.contains("ffn")) {
        if (!options["ffn"].is_boolean()) {
          fail(ErrorKind::kInput, "{}: \"{}\": \"ffn\" is {}, expected true or false", where, found.section,
               brief(options["ffn"]));
        }
        ffn = options["ffn"].get<bool>();
        options.erase("ffn");
      }
      if (type == kSliding && !options.contains("window")) options["window"] = kSlidingWindow;
      out.push_back(
          {static_cast<int64_t>(i), prefix + type, found.block, std::move(options), plan.norm, true, plan.post_norm});
    }
    if (ffn) out.push_back(ffn_sublayer(plan, static_cast<int64_t>(i), where));
  }
  return out;
}

void accept_transformers_keys(Fields& fields, const Json& config, ModelConfig& out) {
  static constexpr const char* kWithoutEffect[] = {"_name_or_path",
                                                   "architectures",
                                                   "attention_dropout",
                                                   "attn_implementation",
                                                   "auto_map",
                                                   "bos_token_id",
                                                   "chunk_size_feed_forward",
                                                   "dtype",
                                                   "finetuning_task",
                                                   "id2label",
                                                   "initializer_range",
                                                   "is_decoder",
                                                   "is_encoder_decoder",
                                                   "label2id",
                                                   "max_position_embeddings",
                                                   "model_type",
                                                   "output_attentions",
                                                   "output_hidden_states",
                                                   "pad_token_id",
                                                   "prefix",
                                                   "problem_type",
                                                   "pruned_heads",
                                                   "quantization_config",
                                                   "return_dict",
                                                   "task_specific_params",
                                                   "tokenizer_class",
                                                   "torch_dtype",
                                                   "torchscript",
                                                   "transformers_version",
                                                   "use_cache",
                                                   "use_bfloat16"};
  for (const char* key : kWithoutEffect) fields.ignore({key});
  for (const auto& [key, value] : config.items()) {
    if (!fields.knows(key))
      out.warnings.push_back(fmt::format("{}: \"{}\" is not a key known here; ignored", fields.where(), key));
  }
}

std::vector<int64_t> read_eos(Fields& fields) {
  const Json* value = fields.raw("eos_token_id");
  if (value == nullptr) return {};
  if (value->is_array()) return fields.integers("eos_token_id", 0, INT32_MAX, 1024);
  return {fields.integer("eos_token_id", 0, INT32_MAX)};
}

int64_t read_padding(Fields& fields, int64_t vocab_size) {
  const Json* value = fields.raw("pad_token_id");
  if (value == nullptr || !value->is_number_integer()) return -1;
  const auto token = value->get<int64_t>();
  const int64_t row = token < 0 ? vocab_size + token : token;
  return token >= -vocab_size && row < vocab_size ? row : -1;
}

void read_rope(Fields& fields, double default_theta, Json& options) {
  const Json parameters = fields.object("rope_parameters");
  const Json scaling = fields.object("rope_scaling");
  refuse_rope_types(parameters, fields.where() + ": \"rope_parameters\"");
  refuse_rope_types(scaling, fields.where() + ": \"rope_scaling\"");
  const double theta = fields.number("rope_theta", 1e-3, 1e12, default_theta);
  // As in transformers: where both keys are there, only the older one counts, its theta included.
  const bool older = !scaling.empty();
  Fields rope(older ? scaling : parameters, fields.where() + (older ? ": \"rope_scaling\"" : ": \"rope_parameters\""));
  options["rope_theta"] = rope.number("rope_theta", 1e-3, 1e12, theta);
  const std::string type = rope.string("rope_type", rope.string("type", kDefaultRope));
  for (Fields* place : {&fields, &rope}) {
    if (place->number("partial_rotary_factor", 0, 1, 1.0) == 1.0) continue;
    fail(ErrorKind::kInput, "{}: \"partial_rotary_factor\" is not supported, expected 1", place->where());
  }
  options["rope_type"] = type;
  if (type == kStretchedRope) {
    constexpr int64_t kMost = int64_t{1} << 40;
    std::optional<int64_t> whole;
    if (fields.has("max_position_embeddings")) whole = fields.integer("max_position_embeddings", 1, kMost);
    options["rope_factor"] = rope.number("factor", 1e-6, 1e6);
    options["rope_low_freq_factor"] = rope.number("low_freq_factor", 1e-6, 1e6);
    options["rope_high_freq_factor"] = rope.number("high_freq_factor", 1e-6, 1e6);
    options["rope_original_max_position"] = rope.integer("original_max_position_embeddings", 1, kMost, whole);
  }
  rope.finish();
}

LayerName split_layer(const std::string& name) {
  std::string rest = name;
  if (!strip_prefix(rest, "layers.")) return {-1, name};
  const size_t dot = rest.find('.');
  return {std::stoll(rest.substr(0, dot)), rest.substr(dot + 1)};
}

bool strip_prefix(std::string& rest, const std::string& prefix) {
  if (rest.compare(0, prefix.size(), prefix) != 0) return false;
  rest.erase(0, prefix.size());
  return true;
}

}  // namespace carousel::model
