// SPDX-License-Identifier: Apache-2.0
// Path -> Model: the config, the weights, the tokenizer and the tokens that end a text.
#include "carousel/model/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/passing_memory.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/new_file.h"
#include "carousel/formats/yaml.h"
#include "carousel/model/cost.h"
#include "carousel/model/end_tokens.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/rope.h"
#include "carousel/model/merged.h"
#include "carousel/model/params.h"
#include "carousel/model/profile.h"
#include "carousel/model/profiled_params.h"
#include "carousel/model/rounded_params.h"
#include "carousel/model/tied_head.h"
#include "carousel/model/tokenizer_reader.h"
#include "carousel/ops/kernel.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr const char* kLightning = "model.ckpt";

void take_tokenizer(Model& model, std::optional<text::Tokenizer> tokenizer, const ModelPath& place,
                    const formats::GgufMetadata* metadata) {
  model.tokenizer = std::move(tokenizer);
  const bool gguf = metadata != nullptr;
  const std::string where = gguf ? place.weights : place.folder + "/tokenizer.json";
  if (model.tokenizer && model.tokenizer->vocab_size() > model.config.vocab_size) {
    model.warnings.push_back(fmt::format("{}: the tokenizer has {} ids, the model {}; ids beyond are refused", where,
                                         model.tokenizer->vocab_size(), model.config.vocab_size));
  }
  if (model.tokenizer) return;
  if (model.config.vocab_size == 256) {
    model.tokenizer = text::Tokenizer::bytes();
    return;
  }
  model.missing_tokenizer = fmt::format("{}: no {}, and the vocabulary is {}, expected 256 to work on bytes",
                                        gguf ? place.weights : place.folder,
                                        gguf ? "\"tokenizer.ggml.model\"" : "tokenizer.json", model.config.vocab_size);
}

bool is_lightning(const std::string& path) { return path.ends_with(".ckpt"); }

Json lightning_settings(const std::string& path) {
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(path);
  const auto found = checkpoint.metadata().find("hyper_parameters");
  if (found == checkpoint.metadata().end()) {
    fail(ErrorKind::kInput, "{}: \"hyper_parameters\" is missing, and there is no config.json", path);
  }
  return parse_json(found->second, path, {kMaxConfigBytes, 64});
}

bool is_yaml(const std::string& path) { return path.ends_with(".yaml") || path.ends_with(".yml"); }

const char* describe(ModelKind kind) {
  switch (kind) {
    case ModelKind::kLanguage:
      return "a language model (see carousel generate)";
    case ModelKind::kRegressor:
      return "a model from features to features (see carousel predict)";
    case ModelKind::kForecaster:
      break;
  }
  return "a forecaster of series (see carousel forecast)";
}

/// Ends the reading of a model's parameters: what has no effect becomes warnings. Throws as CheckpointParams::finish.
void finish_parameters(Model& model, const CheckpointParams& params, const formats::Checkpoint& checkpoint,
                       const std::string& where) {
  for (const std::string& name : params.finish()) {
    if (checkpoint.gguf() != nullptr && name == kRopeTensor) continue;  // the config was told by it
    model.warnings.push_back(fmt::format("{}: \"{}\" has no effect with this config", where, name));
  }
  for (const std::string& warning : params.warnings()) model.warnings.push_back(warning);
  model.fingerprint = fmt::format("{:016x}", params.fingerprint());
}

[[noreturn]] void refuse_kind(const ModelConfig& config, ModelKind wanted, const std::string& where) {
  fail(ErrorKind::kInput, "{}: model_type \"{}\" is {}, expected {}", where, config.model_type, describe(config.kind),
       describe(wanted));
}

}  // namespace

const text::Tokenizer& Model::text() const {
  if (!tokenizer) fail(ErrorKind::kInput, "{}", missing_tokenizer);
  return *tokenizer;
}

ModelConfig read_model_config(const ModelPath& place, const formats::Checkpoint* checkpoint) {
  if (checkpoint == nullptr || checkpoint->gguf() == nullptr) {
    ModelConfig out = parse_config(read_config(place.config), place.config, shapes_of(checkpoint));
    if (checkpoint != nullptr) untie_other_head(*checkpoint, place, out);
    return out;
  }
  std::vector<std::string> warnings;
  const Json config = gguf_config(*checkpoint, place.weights, &warnings);
  ModelConfig out = parse_config(config, place.weights, shapes_of(checkpoint));
  out.warnings.insert(out.warnings.end(), warnings.begin(), warnings.end());
  return out;
}

Json read_config(const std::string& path) {
  if (formats::is_gguf(path)) return gguf_config(formats::Checkpoint::open(path), path);
  Json config = is_yaml(path)        ? formats::parse_yaml(read_text_file(path, kMaxConfigBytes), path)
                : is_lightning(path) ? lightning_settings(path)
                                     : read_json_file(path, {kMaxConfigBytes, 64});
  const std::string type = config.is_object() && !config.contains("model_type") ? implied_model_type(config) : "";
  if (!type.empty()) config["model_type"] = type;
  return config;
}

std::string gguf_in(const std::string& folder) {
  std::vector<std::string> found;
  for (const std::string& name : names_in(folder)) {
    const std::string path = folder + "/" + name;
    const std::optional<formats::ShardName> part = formats::split_gguf_name(path);
    if (path.ends_with(".gguf") && (!part || part->part == 1)) found.push_back(path);
  }
  if (found.size() > 1) {
    fail(ErrorKind::kInput, "{}: {} GGUF models, among them {} and {}, expected the path of one", folder, found.size(),
         found[0], found[1]);
  }
  return found.empty() ? "" : found.front();
}

ModelPath resolve(const std::string& path) {
  if (!file_exists(path)) fail(ErrorKind::kIo, "{}: no such file or folder", path.empty() ? "\"\"" : path);
  ModelPath place;
  const fs::path given(path);
  const bool folder = is_folder(path);
  if (folder) {
    place.folder = path;
    formats::check_complete(path);
    for (const std::string& name : names_in(path)) {
      const bool weights =
          name.ends_with(".safetensors") || name == "model.safetensors.index.json" || name == kLightning;
      if (weights) place.weights = path;
    }
  } else {
    place.folder = given.has_parent_path() ? given.parent_path().string() : ".";
    if (given.extension() == ".safetensors") {
      formats::check_complete(place.folder);
      place.weights = path;
    } else if (is_lightning(path) || formats::is_gguf(path)) {
      place.weights = place.config = path;
      return place;
    } else if (given.extension() == ".json" || is_yaml(path)) {
      place.config = path;
      return place;
    } else {
      fail(ErrorKind::kInput, "{}: expected a model folder, a .safetensors, .gguf or .ckpt file or a config.json",
           path);
    }
  }
  place.config = place.folder + "/config.json";
  const std::string yaml = place.folder + "/config.yaml";
  if (!file_exists(place.config) && file_exists(yaml)) place.config = yaml;
  if (!file_exists(place.config) && file_exists(place.folder + "/" + kLightning)) {
    place.config = place.folder + "/" + kLightning;
  }
  if (folder && (place.weights.empty() || !file_exists(place.config))) {
    if (const std::string gguf = gguf_in(place.folder); !gguf.empty()) return {place.folder, gguf, gguf};
  }
  if (!file_exists(place.config)) fail(ErrorKind::kInput, "{}: config.json is missing", place.folder);
  return place;
}

std::optional<text::Tokenizer> open_tokenizer(const ModelPath& place, const formats::GgufMetadata* gguf) {
  if (gguf != nullptr) {
    const std::string json = gguf_tokenizer(*gguf, place.weights);
    if (json.empty()) return {};
    return text::Tokenizer::from_json(json, place.weights + ": tokenizer");
  }
  const std::string path = place.folder + "/tokenizer.json";
  if (!file_exists(path)) return {};
  return text::Tokenizer::from_file(path);
}

ModelShape declare_params(const ModelConfig& config, ParamSource& source, const std::string& where) {
  if (config.kind == ModelKind::kRegressor) {
    const Regressor regressor(config, source, where);
    return {regressor.state_layout(), regressor.output_size()};
  }
  if (config.kind == ModelKind::kForecaster) return {Forecaster(config, source, where).state_layout(), 0};
  return {Lm(config, source, where).state_layout(), 0};
}

void make_body(Model& model, ParamSource& source, const std::string& where) {
  switch (model.config.kind) {
    case ModelKind::kLanguage:
      model.lm = std::make_unique<Lm>(model.config, source, where);
      break;
    case ModelKind::kForecaster:
      model.forecaster = std::make_unique<Forecaster>(model.config, source, where);
      break;
    case ModelKind::kRegressor:
      model.regressor = std::make_unique<Regressor>(model.config, source, where);
  }
}

namespace {

/// Throws Error(kDevice) where a profile asks for what the device has no kernels for.
void check_profile(const Numerics& numerics, const Memory& memory) {
  Numerics plain = Numerics::native();
  plain.name = numerics.name;
  plain.description = numerics.description;
  plain.gelu_tanh = numerics.gelu_tanh;
  plain.ltc = numerics.ltc;
  plain.init = numerics.init;
  if (!kernel_traits(memory).profiles && !(numerics == plain)) {
    fail(ErrorKind::kDevice, "profile \"{}\" rounds, or computes in another order: not on this device", numerics.name);
  }
}

/// Throws Error(kInput) unless the weights fit into the stream's memory, and with them a first forward, which runs on
/// meta; Error(kDevice) for shapes that its kernels do not take.
void check_fit(const ModelFiles& files, const WeightTypes& types, const Stream& stream, const Numerics& numerics) {
  const std::string& where = files.place.weights;
  const size_t weights = held_bytes(files, types, *stream.memory);
  check_memory(weights, where, "weights", *stream.memory);
  if (numerics.parameters != DType::kF32) return;  // they are held in less than was counted
  Model shapes = model_on_meta(files, types);
  shapes.numerics = std::shared_ptr<const Numerics>(std::shared_ptr<const Numerics>(), &numerics);
  try {
    check_memory(weights + first_run_bytes(measure_activations(shapes, stream), *stream.memory), where,
                 "weights, activations and state of one sequence", *stream.memory);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDevice) throw;
    fail(ErrorKind::kDevice, "{}: {}", where, error.what());
  }
}

}  // namespace

Model load(const std::string& path, const Stream& stream, ModelKind kind, const Numerics& numerics,
           const WeightTypes& asked, const std::string& adapter) {
  Memory& memory = *stream.memory;
  check_profile(numerics, memory);
  ModelFiles files;
  files.place = resolve(path);
  const ModelPath& place = files.place;
  if (place.weights.empty()) {
    const bool config_alone = !is_folder(path);
    fail(ErrorKind::kInput, "{}: {}", path,
         config_alone ? "a config alone, expected a model folder or a .safetensors"
                      : "no weights (model.safetensors or model.safetensors.index.json)");
  }
  files.checkpoint = formats::Checkpoint::open(place.weights);
  const formats::Checkpoint& checkpoint = *files.checkpoint;
  files.config = read_model_config(place, &checkpoint);
  Model model;
  model.numerics = std::make_shared<const Numerics>(numerics);
  model.config = files.config;
  if (model.config.kind != kind) refuse_kind(model.config, kind, place.config);
  const WeightTypes types = with_mix(asked, model.config, place.config).in(memory);
  check_fit(files, types, stream, numerics);
  model.warnings = model.config.warnings;
  std::optional<TokenizerReader> tokenizer;
  if (kind == ModelKind::kLanguage) tokenizer.emplace(place, checkpoint.gguf());
  CheckpointParams params(stream, checkpoint, spelling_of(model.config, &checkpoint, place.config), model.config,
                          place.weights, types);
  std::optional<AdapterFiles> adapted;
  std::optional<MergedParams> merged;
  if (!adapter.empty()) {
    ParamList list;
    declare_params(model.config, list, place.config);
    adapted.emplace(adapter);
    merged.emplace(params, stream, *adapted, model.config, list.records());
  }
  ParamSource& stored = merged ? static_cast<ParamSource&>(*merged) : params;
  RoundedParams rounded(stored, stream, numerics.parameters);
  ParamSource& source = numerics.parameters == DType::kF32 ? stored : rounded;
  make_body(model, source, place.config);
  finish_parameters(model, params, checkpoint, place.weights);
  if (adapted) model.fingerprint = fmt::format("{:016x}", params.fingerprint() ^ adapted->hash());
  if (adapted || types.mapped || numerics.parameters != DType::kF32) {  // such matrices take what was not counted
    check_memory(first_run_bytes(measure_activations(model, stream), memory), place.weights,
                 "activations and state of one sequence", memory);
  }
  if (kind != ModelKind::kLanguage) return model;
  take_tokenizer(model, tokenizer->take(), place, checkpoint.gguf());
  model.end_tokens = find_end_tokens(model, place.folder, checkpoint.gguf() == nullptr);
  return model;
}

TrainedModel load_trained(const std::string& path, const Stream& stream, uint64_t seed, const Tuning& tuning,
                          const Numerics& numerics) {
  if (!kernel_traits(*stream.memory).trains) {
    fail(ErrorKind::kDevice, "{}: got a GPU, expected the CPU to train on", path);
  }
  TrainedModel out;
  out.place = resolve(path);
  const ModelPath& place = out.place;
  if (place.weights.empty() && is_folder(path)) {  // who names a folder means its weights
    fail(ErrorKind::kInput, "{}: no weights (model.safetensors or model.safetensors.index.json); {} draws fresh ones",
         path, place.config);
  }
  if (formats::is_gguf(place.config))
    fail(ErrorKind::kInput, "{}: a GGUF file, expected a model folder to train", path);
  std::optional<formats::Checkpoint> checkpoint;
  if (!place.weights.empty()) checkpoint = formats::Checkpoint::open(place.weights);
  if (!checkpoint && (tuning.rank > 0 || !tuning.adapter.empty()))
    fail(ErrorKind::kInput, "{}: a config alone, expected a model folder for an adapter", path);
  Model& model = out.model;
  // Ops look whether they run natively once per call: a copy would be compared as a whole.
  if (!(numerics == Numerics::native())) model.numerics = std::make_shared<const Numerics>(numerics);
  model.config = read_model_config(place, checkpoint ? &*checkpoint : nullptr);
  model.warnings = model.config.warnings;
  ParamList list;
  declare_params(model.config, list, place.config);
  out.records = list.records();
  for (ParamRecord& record : out.records) record.init = bounded_by(numerics, record.name, record.init);
  Stream reading = stream;  // what is read becomes masters, and is dropped
  reading.memory = &passing_memory();
  DrawnParams native(reading, seed, DType::kF32);
  ProfiledParams drawn(native, numerics);
  std::optional<CheckpointParams> stored;
  const TrainedChoice choice = choose_trained(model.config, out.records, tuning, seed, path);
  if (checkpoint) {
    const TensorNames names = spelling_of(model.config, &*checkpoint, place.config);
    check_base_types(*checkpoint, model.config, names, out.records, choice.adapter, place.weights);
    stored.emplace(reading, *checkpoint, names, model.config, place.weights);
  }
  ParamSource& source = stored ? static_cast<ParamSource&>(*stored) : drawn;
  out.params = std::make_unique<TrainedParams>(source, stream, out.records, choice);
  make_body(model, *out.params, place.config);
  if (!out.params->adapter().modules.empty()) out.params->repack();  // the adapter is added
  if (stored) {
    finish_parameters(model, *stored, *checkpoint, place.weights);
    for (const formats::TensorEntry* entry : checkpoint->entries()) out.stored[entry->name] = entry->dtype;
  }
  if (model.config.kind != ModelKind::kLanguage) return out;
  const formats::GgufMetadata* const gguf = checkpoint ? checkpoint->gguf() : nullptr;
  take_tokenizer(model, open_tokenizer(place, gguf), place, gguf);
  model.end_tokens = find_end_tokens(model, place.folder, checkpoint.has_value());
  out.beside = read_beside(place.folder);
  return out;
}

ModelSize measure(const ModelConfig& config, const std::string& where) {
  ParamList list;
  const ModelShape shape = declare_params(config, list, where);
  ModelSize size;
  double active = 0;
  for (const ParamRecord& record : list.records()) {
    if (record.init.kind == Init::Kind::kMask) continue;  // a mask belongs to a parameter, and is none itself
    const LayerName place = split_layer(record.name);
    std::string part = place.rest.substr(0, place.rest.find('.'));
    const bool norm =
        place.rest.find(".norm.") != std::string::npos || place.rest.find(".post_norm.") != std::string::npos;
    if (part == "out_norm" || norm) part = "norms";
    auto found = std::find_if(size.parts.begin(), size.parts.end(),
                              [&](const ModelSize::Part& candidate) { return candidate.name == part; });
    if (found == size.parts.end()) found = size.parts.insert(size.parts.end(), {part, 0});
    found->parameters += record.shape.count();
    size.parameters += record.shape.count();
    active += record.init.read_share * static_cast<double>(record.shape.count());
    size.active_parameters = std::llround(active);
  }
  size.state_layout = shape.state_layout;
  size.output_size = shape.output_size;
  return size;
}

void check_memory(size_t needed_bytes, const std::string& where, const char* what, const Memory& memory) {
  const size_t available_bytes = memory.available_bytes();
  if (needed_bytes <= available_bytes) return;
  fail(ErrorKind::kInput, "{}: {} of {} bytes, expected at most the {} bytes of {} available", where, what,
       needed_bytes, available_bytes, memory.is_apart() ? "the GPU's memory" : "memory");
}

}  // namespace carousel::model
