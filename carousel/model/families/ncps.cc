// SPDX-License-Identifier: Apache-2.0
// CfC and LTC as the package ncps (PyTorch) saves them. The package has no config.json: ours holds the constructor's
// arguments under their names, with "model_type" cfc or ltc. Tensors have the names of the state dict.
#include <fmt/format.h>

#include "carousel/core/error.h"
#include "carousel/model/families/family.h"

namespace carousel::model {
namespace {

// Accepts keys that change neither the results of a trained model nor those given here, which are every row's output.
void ignore_wrapper_keys(Fields& fields) {
  fields.ignore({"model_type", "architectures", "torch_dtype", "dtype", "transformers_version", "carousel_version",
                 "batch_first", "return_sequences"});
}

/// A whole model is the block alone: no norm, no residual, the output as wide as the cell's.
ModelConfig one_cell(const char* block, int64_t input_size, Json options) {
  ModelConfig out;
  out.hidden_size = input_size;
  out.num_layers = 1;
  out.final_norm.kind = ops::Norm::Kind::kNone;
  if (!options.contains("proj_size")) options["proj_size"] = 0;
  out.sublayers.push_back(
      {0, std::string("layers.0.") + block, block, std::move(options), NormConfig{ops::Norm::Kind::kNone}, false});
  return out;
}

/// Copies the block's own keys; the block checks them.
void copy_keys(Fields& fields, std::initializer_list<const char*> keys, Json& options) {
  for (const char* key : keys) {
    if (const Json* value = fields.raw(key)) options[key] = *value;
  }
}

ModelConfig read_cfc(const Json& config, const std::string& where, const ShapeOf&) {
  Fields fields(config, where);
  const int64_t input_size = fields.integer("input_size", 1, kMaxDim);
  Json options = Json::object();
  copy_keys(fields,
            {"units", "wiring", "mode", "backbone_units", "backbone_layers", "backbone_activation", "mixed_memory",
             "proj_size"},
            options);
  if (const Json* activation = fields.raw("activation")) {  // the wrapper's name for it
    const Json other = options.value("backbone_activation", *activation);
    if (other != *activation) {
      fail(ErrorKind::kInput, "{}: \"activation\" is {} and \"backbone_activation\" is {}, expected the same", where,
           activation->dump(), other.dump());
    }
    options["backbone_activation"] = *activation;
  }
  // Dropout has no effect on a trained model, but its layers shift the numbers of the backbone's layers.
  fields.number("backbone_dropout", 0, 1, 0.0);
  ignore_wrapper_keys(fields);
  fields.finish();
  if (!options.contains("units") && !options.contains("wiring")) {
    fail(ErrorKind::kInput, "{}: neither \"units\" nor \"wiring\" is set, expected one of them", where);
  }
  return one_cell("ncps_cfc", input_size, std::move(options));
}

ModelConfig read_ltc(const Json& config, const std::string& where, const ShapeOf&) {
  Fields fields(config, where);
  const int64_t input_size = fields.integer("input_size", 1, kMaxDim);
  Json options = Json::object();
  copy_keys(fields,
            {"units", "wiring", "ode_unfolds", "epsilon", "input_mapping", "output_mapping",
             "implicit_param_constraints", "mixed_memory", "proj_size"},
            options);
  ignore_wrapper_keys(fields);
  fields.finish();
  if (!options.contains("units") && !options.contains("wiring")) {
    fail(ErrorKind::kInput, "{}: neither \"units\" nor \"wiring\" is set, expected one of them", where);
  }
  return one_cell("ncps_ltc", input_size, std::move(options));
}

/// Index of backbone layer `l` in the reference's Sequential: linear, activation and, from the second layer on with
/// dropout, dropout.
int64_t sequential_index(const ModelConfig& config, int64_t l) {
  const Json dropout = config.source.is_object() ? config.source.value("backbone_dropout", Json(0)) : Json(0);
  const bool drops = dropout.is_number() && dropout.get<double>() > 0;
  return drops && l > 0 ? 3 * l - 1 : 2 * l;
}

std::vector<TensorSource> sources(const ModelConfig& config, const std::string& name) {
  std::string rest = split_layer(name).rest;
  rest = rest.substr(rest.find('.') + 1);  // without the block's name
  if (strip_prefix(rest, "cell.layers.")) return {{"rnn_cell.layer_" + rest}};
  if (strip_prefix(rest, "cell.backbone.")) {
    const size_t dot = rest.find('.');
    const int64_t index = sequential_index(config, std::stoll(rest.substr(0, dot)));
    return {{fmt::format("rnn_cell.backbone.{}{}", index, rest.substr(dot))}};
  }
  if (strip_prefix(rest, "cell.")) return {{"rnn_cell." + rest}};
  if (strip_prefix(rest, "memory.input.")) return {{"lstm.input_map." + rest}};
  if (strip_prefix(rest, "memory.recurrent.")) return {{"lstm.recurrent_map." + rest}};
  if (strip_prefix(rest, "out.")) return {{"fc." + rest}};
  return {{rest}};
}

bool ignorable(const ModelConfig&, const std::string&) { return false; }

}  // namespace

Family cfc_family() {
  return {.model_type = "cfc", .read = read_cfc, .names = {sources, ignorable}, .kind = ModelKind::kRegressor};
}
Family ltc_family() {
  return {.model_type = "ltc", .read = read_ltc, .names = {sources, ignorable}, .kind = ModelKind::kRegressor};
}

}  // namespace carousel::model
