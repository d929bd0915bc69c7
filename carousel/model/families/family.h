// SPDX-License-Identifier: Apache-2.0
// A family is spelling: how one kind of published checkpoint writes its config and names its tensors. It knows nothing
// of mathematics. A new family is one file here and one line in families.cc.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "carousel/model/config.h"

namespace carousel::model {

/// A tensor the file holds with its dimensions in another order than the block's.
struct Permutation {
  Shape stored;           // the tensor's shape in the file
  Shape view;             // the parameter, its dimensions taken apart where the order needs it
  std::vector<int> axes;  // dimension i of the file is dimension axes[i] of the view
};

/// Where a parameter lives in a file.
struct TensorSource {
  std::string file_name;
  /// The parameter is the next rows of a tensor that holds several parameters, in the order the block asks for them.
  bool part = false;
  /// With part: the tensor stacks this many equal slices of such rows ([E, rows, cols]: experts); 0: it does not.
  int64_t stacked = 0;
  std::optional<Permutation> permuted = {};
};

struct Family {
  const char* model_type;
  ModelConfig (*read)(const Json& config, const std::string& where, const ShapeOf& shape_of);
  /// The places where parameter `name` may be found, best first. It is written to the first one.
  std::vector<TensorSource> (*sources)(const ModelConfig& config, const std::string& name);
  /// Whether `tensor`, which some published files hold, has no effect.
  bool (*ignorable)(const ModelConfig& config, const std::string& tensor);
};

/// The family of a config that names none (the xlstm package's config.yaml, TiRex's settings), told by the config's
/// keys; "" where they do not tell.
std::string implied_model_type(const Json& config);

Family find_family(const std::string& model_type, const std::string& where);

// Shared spelling.

/// Accepts the keys that any transformers config may have and that change nothing here; warns of other unknown keys.
void accept_transformers_keys(Fields& fields, const Json& config, ModelConfig& out);
std::vector<int64_t> read_eos(Fields& fields);
/// Translates "rope_parameters", "rope_scaling" or "rope_theta" to the attention block's options.
void read_rope(Fields& fields, double default_theta, Json& options);

/// Layers named by type: each is its mixer sublayer and then an FFN sublayer.
struct LayerPlan {
  std::vector<std::string> layer_types;
  std::function<Json(const std::string& section)> section;  // options of "mlstm_config" and the like
  NormConfig norm;
  NormConfig post_norm{ops::Norm::Kind::kNone};
};
/// The names that "layer_types" may hold, sorted.
std::vector<std::string> layer_type_names();
/// Throws Error(kInput) that lists the known types.
std::vector<Sublayer> expand_layers(const LayerPlan& plan, const std::string& where);
/// The config sections that may appear: "mlstm_config", "conv_config", ...
std::vector<std::string> section_names();

/// "layers.3.mlstm.q.weight" -> {3, "mlstm.q.weight"}; layer is -1 for names outside the layers.
struct LayerName {
  int64_t layer = -1;
  std::string rest;
};
LayerName split_layer(const std::string& name);
/// If `rest` begins with `prefix`, removes the prefix and returns true.
bool strip_prefix(std::string& rest, const std::string& prefix);

}  // namespace carousel::model
