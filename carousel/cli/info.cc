// SPDX-License-Identifier: Apache-2.0
// carousel info: the contents of a model, a config or a saved state, read from headers and shapes alone.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "carousel/cli/command.h"
#include "carousel/cli/compute_options.h"
#include "carousel/cli/info_training.h"
#include "carousel/cli/progress.h"
#include "carousel/cli/weight_options.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/cpu/isa.h"
#include "carousel/model/cost.h"
#include "carousel/model/families/family.h"
#include "carousel/model/runner.h"
#include "carousel/model/saved_state.h"
#include "carousel/text/tokenizer.h"

namespace carousel::cli {
namespace {

namespace fs = std::filesystem;

struct InfoOptions {
  std::string path;
  bool json = false;
  bool train = false;
  TrainOptions step;  // those that decide the memory of a step
  WeightOptions weights;
  Machine machine;
};

// "2 x (short_conv, swiglu), (attention, swiglu)": layers that follow each other and are alike are counted.
std::string block_runs(const model::ModelConfig& config) {
  std::vector<std::string> layers;
  int64_t current = -1;
  for (const model::Sublayer& sublayer : config.sublayers) {
    if (sublayer.layer != current) layers.emplace_back();
    current = sublayer.layer;
    layers.back() += (layers.back().empty() ? "" : ", ") + sublayer.block;
  }
  std::string runs;
  for (size_t begin = 0, end = 0; begin < layers.size(); begin = end) {
    while (end < layers.size() && layers[end] == layers[begin]) ++end;
    if (!runs.empty()) runs += ", ";
    runs += end - begin > 1 ? fmt::format("{} x ({})", end - begin, layers[begin]) : "(" + layers[begin] + ")";
  }
  return runs;
}

Json dtype_counts(const formats::Checkpoint& checkpoint) {
  Json counts = Json::object();
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    Json& count = counts[entry->type_name()];
    count = (count.is_null() ? int64_t{0} : count.get<int64_t>()) + entry->shape.count();
  }
  return counts;
}

Json describe_tokenizer(const model::ModelFiles& files) {
  std::optional<text::Tokenizer> tokenizer =
      model::open_tokenizer(files.place, files.checkpoint ? files.checkpoint->gguf() : nullptr);
  if (!tokenizer && files.config.vocab_size == 256) tokenizer = text::Tokenizer::bytes();
  if (!tokenizer) return {};
  const text::TokenizerSummary summary = tokenizer->summary();
  return {{"kind", summary.kind},     {"vocab_size", summary.vocab_size}, {"tokens", summary.tokens},
          {"merges", summary.merges}, {"added", summary.added},           {"special", summary.special}};
}

/// "layers.3.mlstm.q" -> "mlstm.q", an expert's number -> *.
std::string projection_kind(const std::string& name) {
  std::string out;
  const std::string rest = model::split_layer(name).rest;
  for (size_t begin = 0, end = 0; begin < rest.size(); begin = end + 1) {
    end = std::min(rest.find('.', begin), rest.size());
    const std::string piece = rest.substr(begin, end - begin);
    const bool number = piece.find_first_not_of("0123456789") == std::string::npos;
    out += (out.empty() ? "" : ".") + (number ? "*" : piece);
  }
  return out;
}

/// The wired projections; those of one kind and shape are described together for all layers.
Json describe_wirings(const std::vector<model::WiredProjection>& wired) {
  Json kinds = Json::array();
  for (const model::WiredProjection& projection : wired) {
    const std::string kind = projection_kind(projection.name);
    const Json shape = {projection.rows, projection.cols};
    auto found = std::find_if(kinds.begin(), kinds.end(), [&](const Json& seen) {
      return seen["name"] == kind && seen["shape"] == shape && seen["polarity"] == projection.polarity;
    });
    if (found == kinds.end()) {
      kinds.push_back({{"name", kind},
                       {"shape", shape},
                       {"polarity", projection.polarity},
                       {"count", 0},
                       {"live", 0},
                       {"masked", 0}});
      found = std::prev(kinds.end());
    }
    Json& sums = *found;
    sums["count"] = sums["count"].get<int64_t>() + 1;
    sums["live"] = sums["live"].get<int64_t>() + projection.live;
    sums["masked"] = sums["masked"].get<int64_t>() + projection.rows * projection.cols - projection.live;
  }
  for (Json& kind : kinds) {
    const auto live = kind["live"].get<double>();
    kind["density"] = live / (live + kind["masked"].get<double>());
  }
  return kinds;
}

void print_wirings(const Json& wirings) {
  for (const Json& kind : wirings) {
    const auto count = kind.at("count").get<int64_t>();
    fmt::print("  wiring       {}{}, [{}, {}]{}: density {:.4g}, {} live and {} masked weights\n",
               kind.at("name").get<std::string>(), count > 1 ? fmt::format(", {} of them", count) : "",
               kind.at("shape")[0].get<int64_t>(), kind.at("shape")[1].get<int64_t>(),
               kind.at("polarity").get<bool>() ? " of fixed signs" : "", kind.at("density").get<double>(),
               with_commas(kind.at("live").get<int64_t>()), with_commas(kind.at("masked").get<int64_t>()));
  }
}

/// What a forward reserves on `stream`'s threads.
Json describe_activations(const model::Activations& activations, const Stream& stream) {
  Json out = {{"prompt_bytes", activations.prompt_bytes},
              {"prompt_rows", activations.prompt_rows},
              {"threads", stream.threads()},
              {"isa", cpu::isa_name(stream.isa)}};
  if (activations.decode_bytes > 0) out["decode_bytes"] = activations.decode_bytes;
  return out;
}

Json describe_model(const model::ModelFiles& files, const InfoOptions& options, const Stream& stream) {
  const model::ModelConfig& config = files.config;
  const model::WeightTypes types = options.weights.types().in(*stream.memory);
  const model::ModelSize size = model::measure(config, files.place.config);
  Json parts = Json::array();
  for (const model::ModelSize::Part& part : size.parts)
    parts.push_back({{"name", part.name}, {"parameters", part.parameters}});
  const model::ModelCost cost = model::measure_cost(files, types, *stream.memory);
  const model::Activations activations = model::measure_activations(model::model_on_meta(files, types), stream);
  const size_t needed = model::first_run_bytes(activations, *stream.memory);
  const auto row_bytes = static_cast<double>(size.state_layout.page_bytes()) / static_cast<double>(kPageRows);
  Json out = {{"path", options.path},
              {"model_type", config.model_type},
              {"layers", config.num_layers},
              {"blocks", block_runs(config)},
              {"hidden_size", config.hidden_size},
              {"tie_word_embeddings", config.tie_word_embeddings},
              {"parameters", size.parameters},
              {"active_parameters", size.active_parameters - cost.active_masked},
              {"live_parameters", size.parameters - cost.masked},
              {"parts", parts},
              {"wirings", describe_wirings(cost.wired)},
              {"bytes_in_memory", cost.held_bytes},
              {"dtype", dtype_name(files.dtype_of("embeddings.weight"))},
              {"held_dtype", dtype_name(cost.dtype)},
              {"state_bytes", model::fixed_state_bytes(size.state_layout)},
              {"state_bytes_per_token", row_bytes},
              {"activations", describe_activations(activations, stream)},
              {"bytes_needed", cost.held_bytes + static_cast<int64_t>(needed)},
              {"tokenizer", describe_tokenizer(files)},
              {"warnings", config.warnings}};
  if (config.kind == model::ModelKind::kRegressor) {
    out["input_size"] = config.hidden_size;
    out["output_size"] = size.output_size;
  } else if (config.kind == model::ModelKind::kForecaster) {
    out["context"] = config.patches.context;
    out["patch"] = config.patches.patch;
    out["quantiles"] = config.patches.quantiles;
  } else {
    out["vocab_size"] = config.vocab_size;
  }
  if (files.checkpoint) {
    out["bytes_on_disk"] = files.checkpoint->size_bytes();
    out["files"] = files.checkpoint->paths().size();
    out["dtypes"] = dtype_counts(*files.checkpoint);
  }
  return out;
}

// Whether a file is a saved state, told by its metadata, whatever its name.
bool is_saved_state(const std::string& path) {
  std::error_code unknown;
  return fs::is_regular_file(path, unknown) && model::looks_like_state(path);
}

Json describe_state(const std::string& path) {
  const formats::SafetensorsFile file = formats::SafetensorsFile::open(path);
  Json out = {{"path", path}, {"saved_state", true}, {"metadata", Json::object()}};
  for (const auto& [key, value] : file.metadata()) out["metadata"][key] = value;
  size_t bytes = 0;
  for (const formats::TensorEntry& entry : file.entries()) bytes += entry.size_bytes;
  out["tensors"] = file.entries().size();
  out["bytes"] = bytes;
  return out;
}

void print_state(const Json& state) {
  fmt::print("{}\n  saved state of a sequence, {} in {} tensors\n", state.at("path").get<std::string>(),
             in_binary_units(state.at("bytes").get<double>()), state.at("tensors").get<size_t>());
  for (const auto& [key, value] : state.at("metadata").items())
    fmt::print("  {:<12} {}\n", key, value.get<std::string>());
}

void print_weights(const Json& model) {
  const auto held = model.at("bytes_in_memory").get<int64_t>();
  if (!model.contains("bytes_on_disk")) {
    fmt::print("  weights      none here; {} ({} bytes) in memory as {}\n", in_binary_units(static_cast<double>(held)),
               with_commas(held), model.at("held_dtype").get<std::string>());
    return;
  }
  std::string dtypes;
  for (const auto& [name, count] : model.at("dtypes").items())
    dtypes += fmt::format("{}{} {}", dtypes.empty() ? "" : ", ", with_commas(count.get<int64_t>()), name);
  const auto disk = model.at("bytes_on_disk").get<int64_t>();
  fmt::print("  weights      {} ({} bytes) on disk, {} in memory\n", in_binary_units(static_cast<double>(disk)),
             with_commas(disk), in_binary_units(static_cast<double>(held)));
  fmt::print("  dtypes       {}\n", dtypes);
}

void print_tokenizer(const Json& tokenizer) {
  if (tokenizer.is_null()) {
    fmt::print("  tokenizer    none\n");
    return;
  }
  fmt::print("  tokenizer    {}: {} tokens, {} merges, {} special\n", tokenizer.at("kind").get<std::string>(),
             with_commas(tokenizer.at("tokens").get<int64_t>()), with_commas(tokenizer.at("merges").get<int64_t>()),
             with_commas(tokenizer.at("special").get<int64_t>()));
}

void print_activations(const Json& activations, bool tokens) {
  const auto size = [&](const char* key) {
    const auto bytes = activations.at(key).get<int64_t>();
    return fmt::format("{} ({} bytes)", in_binary_units(static_cast<double>(bytes)), with_commas(bytes));
  };
  const auto rows = activations.at("prompt_rows").get<int64_t>();
  const std::string decode =
      activations.contains("decode_bytes") ? size("decode_bytes") + (tokens ? " for a token, " : " for a row, ") : "";
  fmt::print("  activations  {}{} for {} {}, on {} threads\n", decode, size("prompt_bytes"), rows,
             tokens           ? "of a prompt"
             : decode.empty() ? "patches"
                              : "rows",
             activations.at("threads").get<int64_t>());
}

void print_model(const Json& model) {
  fmt::print("{}\n", model.at("path").get<std::string>());
  fmt::print("  model type   {}\n", model.at("model_type").get<std::string>());
  fmt::print("  layers       {}: {}\n", model.at("layers").get<int64_t>(), model.at("blocks").get<std::string>());
  if (model.contains("output_size")) {
    fmt::print("  features     {} in, {} out\n", with_commas(model.at("input_size").get<int64_t>()),
               with_commas(model.at("output_size").get<int64_t>()));
  } else if (model.contains("patch")) {
    fmt::print("  width        {}\n", with_commas(model.at("hidden_size").get<int64_t>()));
    fmt::print("  series       {} values seen, in patches of {}; {} quantiles\n",
               with_commas(model.at("context").get<int64_t>()), model.at("patch").get<int64_t>(),
               model.at("quantiles").size());
  } else {
    fmt::print("  width        {}\n", with_commas(model.at("hidden_size").get<int64_t>()));
    fmt::print("  vocabulary   {}{}\n", with_commas(model.at("vocab_size").get<int64_t>()),
               model.at("tie_word_embeddings").get<bool>() ? ", embeddings tied to the head" : "");
  }
  const auto parameters = model.at("parameters").get<int64_t>();
  const auto active = model.at("active_parameters").get<int64_t>();
  const auto live = model.at("live_parameters").get<int64_t>();
  fmt::print("  parameters   {}{}{}\n", with_commas(parameters),
             live < parameters ? fmt::format(", {} of them live, the rest masked", with_commas(live)) : "",
             active < live ? fmt::format(", {} active per token", with_commas(active)) : "");
  for (const Json& part : model.at("parts"))
    fmt::print("    {:<16} {:>15}\n", part.at("name").get<std::string>(),
               with_commas(part.at("parameters").get<int64_t>()));
  print_wirings(model.at("wirings"));
  print_weights(model);
  const auto fixed = model.at("state_bytes").get<int64_t>();
  const double per_token = model.at("state_bytes_per_token").get<double>();
  const std::string growth = in_binary_units(per_token) + fmt::format(" per token, in pages of {}", kPageRows);
  const std::string whole =
      fmt::format("{} ({} bytes) per sequence", in_binary_units(static_cast<double>(fixed)), with_commas(fixed));
  fmt::print("  state        {}{}{}\n", fixed > 0 ? whole : "", fixed > 0 && per_token > 0 ? ", and " : "",
             per_token > 0 ? growth : ", whatever its length");
  print_activations(model.at("activations"), model.contains("vocab_size"));
  if (model.contains("device")) {
    const auto free = model.at("bytes_available").get<int64_t>();
    const auto needed = model.at("bytes_needed").get<int64_t>();
    fmt::print("  device       {}: {} ({} bytes) free, of which the model and one sequence take {} ({} bytes)\n",
               model.at("device").get<std::string>(), in_binary_units(static_cast<double>(free)), with_commas(free),
               in_binary_units(static_cast<double>(needed)), with_commas(needed));
  }
  if (model.contains("training")) print_training(model.at("training"));
  print_tokenizer(model.at("tokenizer"));
  for (const Json& warning : model.at("warnings")) fmt::print("  warning      {}\n", warning.get<std::string>());
}

Json describe_files(InfoOptions& options) {
  const model::ModelFiles files = model::open_model_files(options.path);
  const Stream stream = options.machine.stream();
  if (options.train && !kernel_traits(*stream.memory).trains) {
    fail(ErrorKind::kDevice, "--device: got {}, expected cpu for --train", options.machine.device);
  }
  Json out = describe_model(files, options, stream);
  if (stream.memory->is_apart()) {
    out["device"] = options.machine.device;
    out["bytes_available"] = stream.memory->available_bytes();
  }
  options.step.model = options.path;
  if (options.train) out["training"] = describe_training(files, stream, options.step);
  return out;
}

int run_info(InfoOptions& options) {
  const bool state = is_saved_state(options.path);
  if (state && options.train) fail(ErrorKind::kUsage, "--train: got a saved state, {}, expected a model", options.path);
  if (!state) options.weights.check_parts(options.path);
  const Json described = state ? describe_state(options.path) : describe_files(options);
  if (options.json)
    fmt::print("{}\n", described.dump(2, ' ', false, Json::error_handler_t::replace));
  else if (state)
    print_state(described);
  else
    print_model(described);
  return 0;
}

}  // namespace

std::function<int()> setup_info(CLI::App& app) {
  const auto options = std::make_shared<InfoOptions>();
  app.add_option("path", options->path, "Model folder, .safetensors, .gguf, .ckpt, config.json alone, or a saved state")
      ->required();
  app.add_flag("--json", options->json, "As JSON");
  app.add_flag("--train", options->train, "Also the memory that training takes");
  add_training_options(app, options->step);
  options->weights.add_options(app);
  options->machine.add_compute(app);
  options->machine.add_options(app);
  return [options, &app] {
    if (!options->train) refuse_training_options(app);
    return run_info(*options);
  };
}

}  // namespace carousel::cli
