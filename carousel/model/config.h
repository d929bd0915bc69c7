// SPDX-License-Identifier: Apache-2.0
// The canonical description every family's config.json is translated to: dims and a flat list of residual sublayers.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/core/tensor.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::model {

struct NormConfig {
  ops::Norm::Kind kind = ops::Norm::Kind::kRms;
  double eps = 1e-6;
  bool bias = false;
  bool weight_around_zero = false;  // the file holds w, the norm multiplies by 1 + w
};

/// x = x + post_norm(block(norm(x))), or without the residual x = post_norm(block(norm(x))).
struct Sublayer {
  int64_t layer = 0;     // index of the layer it is part of; names its state ("3.C")
  std::string name;      // "layers.3.mlstm": prefix of its parameters; its norm is "<name>.norm"
  std::string block;     // name in blocks::registry()
  Json options;          // the block's options, canonical keys
  NormConfig norm;       // the norm before the block
  bool residual = true;  // x is added to the result
  NormConfig post_norm{ops::Norm::Kind::kNone};  // after the block; its parameters are "<name>.post_norm"
};

/// The inputs and outputs of a model.
enum class ModelKind : uint8_t {
  kLanguage,    // tokens to logits
  kRegressor,   // rows of features to rows of features: hidden_size is the width of the input, there is no vocabulary
  kForecaster,  // patches of a series to quantiles of the next patch
};

/// For a forecaster: how a series becomes tokens, and which quantiles it gives.
struct PatchConfig {
  int64_t context = 0;            // values that a pass sees
  int64_t patch = 0;              // values of a token, and of its forecast
  int64_t hidden = 0;             // width of the hidden layers around the stack
  std::vector<double> quantiles;  // levels, increasing
  int64_t tokens() const { return context / patch; }
};

struct ModelConfig {
  ModelKind kind = ModelKind::kLanguage;
  std::string model_type;  // the family that read it
  PatchConfig patches;     // patches of a forecaster
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;  // D
  int64_t num_layers = 0;
  std::vector<Sublayer> sublayers;
  NormConfig final_norm;
  bool tie_word_embeddings = false;
  int64_t padding_token = -1;  // its embedding gets no gradient from look-ups; negative: none
  double logit_soft_cap = 0;   // 0: none
  std::vector<int64_t> eos_token_ids;
  std::string tensor_layout;          // the layout of the checkpoint, for a family that knows several
  std::vector<std::string> warnings;  // keys that were read but have no effect, or look wrong
  Json source;                        // config.json as read
};

/// The value of `key` in a config that parse_config has accepted, or `fallback` where the key is absent or null: to
/// Fields, null means the default.
Json stated(const Json& config, const char* key, Json fallback);

/// The shape of a tensor in the config's checkpoint, if the tensor is there. An empty function: there is no checkpoint.
using ShapeOf = std::function<std::optional<Shape>(const std::string& tensor)>;

/// Translates config.json by its "model_type". Throws Error(kInput) naming the key, what was got and expected.
ModelConfig parse_config(const Json& config, const std::string& where, const ShapeOf& shape_of = {});

/// Bounds that keep every product of two dims far from overflow.
constexpr int64_t kMaxDim = int64_t{1} << 24;
constexpr int64_t kMaxLayers = 4096;

}  // namespace carousel::model
