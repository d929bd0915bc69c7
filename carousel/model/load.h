// SPDX-License-Identifier: Apache-2.0
// Path -> Model and back: a Hugging Face folder, or one .safetensors with its config.json beside it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/beside.h"
#include "carousel/model/config.h"
#include "carousel/model/forecaster.h"
#include "carousel/model/lm.h"
#include "carousel/model/params.h"
#include "carousel/model/regressor.h"
#include "carousel/model/trained_params.h"
#include "carousel/model/tuning.h"
#include "carousel/ops/numerics.h"
#include "carousel/text/tokenizer.h"

namespace carousel::model {

struct Model {
  ModelConfig config;
  std::unique_ptr<Lm> lm;                    // a language model; else null
  std::unique_ptr<Regressor> regressor;      // a model from features to features; else null
  std::unique_ptr<Forecaster> forecaster;    // a model of time series; else null
  std::optional<text::Tokenizer> tokenizer;  // absent: no tokenizer.json and a vocabulary that is not bytes
  std::string missing_tokenizer;             // without a tokenizer: the message for who needs one
  std::vector<int32_t> end_tokens;           // generation stops after any of these
  std::string fingerprint;                   // a hash of config and weights; saved states carry it
  std::vector<std::string> warnings;
  // How numbers are handled; the shipped native profile has no owner.
  std::shared_ptr<const Numerics> numerics{std::shared_ptr<const Numerics>(), &Numerics::native()};

  /// The tokenizer. Throws Error(kInput) saying what is missing.
  const text::Tokenizer& text() const;
  const StateLayout& state_layout() const {
    return lm ? lm->state_layout() : regressor ? regressor->state_layout() : forecaster->state_layout();
  }
};

/// Loads weights, in their own dtype but for what `types` says. Throws Error(kIo, kInput) naming the file and what is
/// wrong with it, or a model of another kind than the caller can use. The same, before anything is read, where memory
/// lacks for the weights and a first forward (measure_activations).
///   adapter: the folder of one that is added to the weights of a language model; empty: none
Model load(const std::string& path, const Stream& stream, ModelKind kind = ModelKind::kLanguage,
           const Numerics& numerics = Numerics::native(), const WeightTypes& types = {},
           const std::string& adapter = "");

/// The folder, config and weights that a path means. A config alone has no weights; a Lightning checkpoint is both.
struct ModelPath {
  std::string folder;
  std::string config;   // config.json, or config.yaml or model.ckpt where there is none
  std::string weights;  // the path for Checkpoint::open; empty: no weights are there
};

/// A model whose parameters are trained.
struct TrainedModel {
  Model model;
  std::unique_ptr<TrainedParams> params;
  std::vector<ParamRecord> records;  // all that the constructor asked for, masks among them
  ModelPath place;
  std::map<std::string, DType> stored;  // types of the tensors of the files it was loaded from, by name
  BesideFiles beside;                   // of the folder it was loaded from, which may be gone once it is written
};
/// Loads a model to be trained: a folder or a .safetensors, or a config alone, whose parameters are drawn from `seed`.
/// Throws as load does, and kInput for a GGUF file.
///   numerics: of training_numerics(); fresh parameters are drawn as they say
TrainedModel load_trained(const std::string& path, const Stream& stream, uint64_t seed, const Tuning& tuning = {},
                          const Numerics& numerics = Numerics::native());

/// The network that model.config describes, its parameters from `source`. Throws as the networks' constructors do;
/// `where` names the config.
void make_body(Model& model, ParamSource& source, const std::string& where);

/// What declare_params returns.
struct ModelShape {
  StateLayout state_layout;  // of one sequence
  int64_t output_size = 0;   // width of a regressor's output
};
/// Asks `source` for every parameter of the model that a config describes, in the order of its constructor.
ModelShape declare_params(const ModelConfig& config, ParamSource& source, const std::string& where);

/// The size of the model that a config describes; nothing is allocated.
struct ModelSize {
  struct Part {
    std::string name;  // "embeddings", "mlstm", "swiglu", ..., "norms", "lm_head"
    int64_t parameters = 0;
  };
  std::vector<Part> parts;
  int64_t parameters = 0;
  int64_t active_parameters = 0;  // parameters that one token is computed with: the chosen experts, not all
  StateLayout state_layout;
  int64_t output_size = 0;  // width of a regressor's output
};
ModelSize measure(const ModelConfig& config, const std::string& where);

ModelPath resolve(const std::string& path);
/// The one GGUF model of a folder, the first file of a split one; empty: there is none. Throws Error(kInput): several.
std::string gguf_in(const std::string& folder);
/// The tokenizer of a model: from the folder's tokenizer.json, or from the keys of a GGUF file; nothing where there is
/// none.
std::optional<text::Tokenizer> open_tokenizer(const ModelPath& place, const formats::GgufMetadata* gguf);
/// The config of a model, with the shapes of its checkpoint (nullptr: none) to tell layouts apart.
ModelConfig read_model_config(const ModelPath& place, const formats::Checkpoint* checkpoint);
/// The config at `path`: JSON, YAML or the settings in a Lightning checkpoint. Where it has no model_type, its keys may
/// tell the family.
Json read_config(const std::string& path);

/// config.json text -> an initialised model in `out`: config.json and model.safetensors under the family's names, in
/// `dtype`, drawn as `numerics` says. Throws Error(kInput); kIo when `out` exists and is not empty, or cannot be
/// written. `progress`, if any, is told the share done before every tensor and stops the work by returning false; then,
/// as on any error, no model is left behind and Error(kCancelled) is thrown. 1 is told before the model is flushed.
void write_initialised(const std::string& config_path, uint64_t seed, DType dtype, const std::string& out,
                       const std::function<bool(double)>& progress = {}, const Numerics& numerics = Numerics::native());

/// Throws Error(kInput) when `memory` does not have that much now, rather than being killed half way. `what` takes it,
/// in the message.
void check_memory(size_t needed_bytes, const std::string& where, const char* what = "weights",
                  const Memory& memory = Memory::host());

}  // namespace carousel::model
