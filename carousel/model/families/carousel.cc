// SPDX-License-Identifier: Apache-2.0
// carousel's own config: any mix of blocks named by "layer_types", one section of options per block type. Parameters
// have their canonical names in the file (docs/formats.md).
#include <fmt/format.h>

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
  out.vocab_size = fields.integer("vocab_size", 1, kMaxDim);
  out.hidden_size = fields.integer("hidden_size", 1, kMaxDim);
  const double eps = fields.number("norm_eps", 0, 1, 1e-6);
  out.tie_word_embeddings = fields.boolean("tie_word_embeddings", false);
  out.logit_soft_cap = fields.number("output_logit_soft_cap", 0, 1e9, 0.0);
  out.eos_token_ids = read_eos(fields);
  out.final_norm.eps = eps;

  LayerPlan plan;
  plan.norm.eps = eps;
  if (fields.boolean("post_norm", false)) plan.post_norm = plan.norm;
  plan.layer_types = fields.strings("layer_types", kMaxLayers);
  const auto listed = static_cast<int64_t>(plan.layer_types.size());
  out.num_layers = fields.has("layer_types") ? fields.integer("num_hidden_layers", 0, kMaxLayers, listed)
                                             : fields.integer("num_hidden_layers", 0, kMaxLayers);
  if (!fields.has("layer_types")) plan.layer_types.assign(static_cast<size_t>(out.num_layers), "mlstm");
  if (static_cast<int64_t>(plan.layer_types.size()) != out.num_layers) {
    fail(ErrorKind::kInput, "{}: \"layer_types\" names {} layers, expected \"num_hidden_layers\" {}", where, listed,
         out.num_layers);
  }
  Json sections = Json::object();
  for (const std::string& name : section_names()) sections[name] = fields.object(name.c_str());
  plan.section = [&](const std::string& name) {
    Json options = sections[name];
    const bool norms = name == "mlstm_config" || name == "attention_config" || name == "sliding_attention_config";
    if (norms && !options.contains("norm_eps")) options["norm_eps"] = eps;
    return options;
  };
  fields.ignore({"model_type", "architectures", "bos_token_id", "pad_token_id", "torch_dtype", "dtype",
                 "transformers_version", "carousel_version"});
  fields.finish();
  out.sublayers = expand_layers(plan, where);
  return out;
}

std::vector<TensorSource> sources(const ModelConfig&, const std::string& name) { return {{name}}; }

bool ignorable(const ModelConfig&, const std::string&) { return false; }

// In GGUF config.json goes along as text, that of any family.
Json from_gguf(KeyReader& keys) {
  const std::string text = keys.all().string("carousel.config");
  Json out = parse_json(text, keys.where() + ": \"carousel.config\"", {size_t{16} << 20, 64});
  if (!out.is_object())
    fail(ErrorKind::kInput, "{}: \"carousel.config\" is {}, expected an object", keys.where(), brief(out));
  return out;
}

void to_gguf(KeyWriter& out) { out.put("config", out.config().source.dump()); }

constexpr GgufSide kGguf{
    .architecture = "carousel", .read = from_gguf, .write = to_gguf, .names = {sources, gguf_ignorable}, .whole = true};

}  // namespace

Family carousel_family() {
  return {.model_type = "carousel", .read = read, .names = {sources, ignorable}, .gguf = &kGguf};
}

}  // namespace carousel::model
