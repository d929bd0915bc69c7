// SPDX-License-Identifier: Apache-2.0
// A family is spelling: how one kind of published checkpoint writes its config and names its tensors, GGUF's spelling
// included. It knows nothing of mathematics. A new family is one file here, declared and listed in families.cc.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "carousel/model/config.h"

namespace carousel::model {

class KeyReader;
class KeyWriter;

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

/// How the tensors of a file are named.
struct TensorNames {
  /// The places the parameter `name` may be found in, best first; the first one is where it is written.
  std::vector<TensorSource> (*sources)(const ModelConfig& config, const std::string& name);
  /// Whether `tensor`, which some published files hold, has no effect.
  bool (*ignorable)(const ModelConfig& config, const std::string& tensor);
};

/// A published name and what the same tensor is called in GGUF.
struct Renamed {
  const char* published;
  const char* gguf;
};

/// How GGUF spells a family: an architecture with keys and tensor names of its own.
struct GgufSide {
  const char* architecture;
  /// Its keys as the family's config.json. Throws Error(kInput) naming the key or tensor.
  Json (*read)(KeyReader& keys);
  /// The keys that `read` takes back as the model's config.
  void (*write)(KeyWriter& out);
  TensorNames names;
  std::span<const Renamed> asked = {};  // the names that the family's reader asks shapes by
  /// Whether the keys can say all of this model; nullptr: of any. They never can of one with wirings.
  bool (*holds)(const ModelConfig& config) = nullptr;
  /// True for one family, whose side takes every model that has no other: tensors keep their types and shapes.
  bool whole = false;
};

/// All that tells a family from others.
struct Family {
  const char* model_type;
  ModelConfig (*read)(const Json& config, const std::string& where, const ShapeOf& shape_of);
  TensorNames names;
  ModelKind kind = ModelKind::kLanguage;
  /// Whether an object without "model_type" is a config of this family: the xlstm package's config.yaml and TiRex's
  /// settings name none. nullptr: never.
  bool (*implied_by)(const Json& config) = nullptr;
  const GgufSide* gguf = nullptr;  // nullptr: none of its own
  /// Whether a head that the file holds and that differs from the embeddings is used where the config ties it.
  bool unties_other_heads = false;
};

/// All of them. The first whose implied_by agrees is taken, and messages list architectures in this order.
const std::vector<Family>& families();
/// The family of a config that names none, by the keys it has; or "".
std::string implied_model_type(const Json& config);
/// nullptr: this build has none.
const Family* known_family(const std::string& model_type);
/// Throws Error(kInput) that lists the known types.
const Family& find_family(const std::string& model_type, const std::string& where);

// Shared spelling.

/// Accepts the keys that any transformers config may have and that change nothing here; warns of other unknown keys.
void accept_transformers_keys(Fields& fields, const Json& config, ModelConfig& out);
std::vector<int64_t> read_eos(Fields& fields);
/// "pad_token_id" as torch.nn.Embedding takes it: from the end where it is negative. Negative: there is none below V.
int64_t read_padding(Fields& fields, int64_t vocab_size);
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
