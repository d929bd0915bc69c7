// SPDX-License-Identifier: Apache-2.0
// Which folders are checkpoints, and what is in train.safetensors.
#include "carousel/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <system_error>
#include <vector>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/model_writer.h"
#include "carousel/train/lanes.h"

namespace carousel::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "train.safetensors";
constexpr const char* kRun = "carousel.run";  // key of the metadata: a JSON object
constexpr const char* kPrefix = "step-";

/// The step that a folder's name says; nothing for another name.
std::optional<int64_t> step_of(const std::string& name) {
  const std::string prefix = kPrefix;
  int64_t step = 0;
  if (!name.starts_with(prefix) || name.size() == prefix.size()) return {};
  const char *const begin = name.data() + prefix.size(), *const end = name.data() + name.size();
  const auto parsed = std::from_chars(begin, end, step);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(step) : std::nullopt;
}

/// Where the checkpoint of a step is written: no name that a reader of checkpoints would take.
std::string unfinished_folder(const std::string& out, int64_t step) {
  return fmt::format("{}/.{}{}{}", out, kPrefix, step, kDraftEnding);
}

bool is_unfinished(const std::string& name) {
  return name.starts_with(std::string(".") + kPrefix) && name.ends_with(kDraftEnding);
}

/// Whether no writer is or was ended within it.
bool is_finished(const std::string& folder) {
  try {
    formats::check_complete(folder);
  } catch (const Error&) {
    return false;
  }
  return true;
}

bool is_complete(const std::string& folder) {
  return is_finished(folder) && file_exists(folder + "/" + kFile) &&
         (file_exists(folder + "/config.json") || model::is_adapter(folder));
}

/// The complete checkpoints, oldest first.
std::vector<int64_t> complete_steps(const std::string& out) {
  std::vector<int64_t> steps;
  if (!is_folder(out)) return steps;
  for (const std::string& name : names_in(out)) {
    const std::optional<int64_t> step = step_of(name);
    if (step && is_complete(out + "/" + name)) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

/// A run that comes to a step whose folder is taken could not save it, hours after it was resumed.
void check_later(const std::string& out, int64_t latest) {
  if (!is_folder(out)) return;
  for (const std::string& name : names_in(out)) {
    const std::optional<int64_t> step = step_of(name);
    const std::string folder = out + "/" + name;
    if (!step || *step <= latest || !is_folder(folder) || names_in(folder).empty()) continue;
    if (!is_finished(folder)) continue;  // it will be replaced
    const std::string missing = file_exists(folder + "/" + kFile) ? "config.json" : kFile;
    fail(ErrorKind::kInput, "{}: no checkpoint to go on with: {} is missing; expected it there, or the folder {}",
         folder, missing,
         latest > 0 ? "removed or renamed to go on after step " + std::to_string(latest)
                    : "removed or renamed to begin again");
  }
}

/// A parameter's part of one of the optimiser's arrays.
Tensor part_of(const Tensor& flat, const model::TrainedParam& param) {
  return flat.rows(param.first, param.first + param.shape.count()).reshape(param.shape);
}

std::string lane_name(size_t lane, const std::string& tensor) { return fmt::format("lane.{}.{}", lane, tensor); }

/// Refuses a train.safetensors of another step than its folder names, and moments of another optimiser than the run's.
void check_run(Fields& fields, int64_t steps, const std::string& folder, const Trainer& trainer) {
  const std::optional<int64_t> named = step_of(fs::path(folder).filename().string());
  if (named && *named != steps) {
    fail(ErrorKind::kInput, "{}: \"step\" is {}, expected {} as the folder's name says", fields.where(), steps, *named);
  }
  const std::string optim = method_name(trainer.method());
  const std::string stored = fields.choice("optim", method_names(), optim);  // older versions wrote none
  if (stored == optim) return;
  fail(ErrorKind::kInput, "--optim: got {}, expected {}, whose moments {} holds", optim, stored, fields.where());
}

/// What the processes hold of a run, brought together at rank 0.
struct Collected {
  explicit Collected(Trainer& trainer)
      : m(trainer.optimiser().collect(trainer.optimiser().m())),
        lanes(collect_lanes(trainer.processes(), trainer.lanes(), trainer.model().model.state_layout())) {
    if (trainer.optimiser().v().defined()) v = trainer.optimiser().collect(trainer.optimiser().v());
  }
  Tensor m, v;  // flat as the gradients are; v is undefined where there is none
  std::vector<State> lanes;
};

NamedTensors tensors_of(Trainer& trainer, const Collected& all) {
  NamedTensors out;
  for (const model::TrainedParam& param : trainer.model().params->params()) {
    if (!param.trained) continue;
    out.push_back({"m." + param.name, part_of(all.m, param).to_host()});
    if (trainer.optimiser().has_v(param)) out.push_back({"v." + param.name, part_of(all.v, param).to_host()});
  }
  for (size_t lane = 0; lane < all.lanes.size(); ++lane) {
    const State& state = all.lanes[lane];
    if (state.empty()) continue;
    for (const NamedTensor& named : state.tensors(trainer.model().model.state_layout())) {
      out.push_back({lane_name(lane, named.name), named.tensor});
    }
  }
  return out;
}

Json run_of(Trainer& trainer, const RunState& run, const Collected& all) {
  Json positions = Json::array();
  for (const State& state : all.lanes) positions.push_back(state.pos());
  const NormHistory& norms = trainer.norms();
  Json out = {{"step", trainer.optimiser().steps()},
              {"optim", method_name(trainer.method())},
              {"skipped", trainer.optimiser().skipped()},
              {"norms", norms.count},
              {"norm_mean", norms.mean},
              {"norm_variance", norms.variance},
              {"rows", trainer.rows_taken()},
              {"tokens", trainer.tokens_seen()},
              {"lanes", positions},
              {"best", run.best},
              {"best_step", run.best_step}};
  if (run.unvalidated) out["unvalidated"] = true;
  return out;
}

/// One that is not finite, or a negative second moment, would end as a loss that is blamed on the data.
void check_moments(const Tensor& values, int64_t first, bool squares, const std::string& name,
                   const std::string& where) {
  const float* const x = values.f32();
  for (int64_t i = 0; i < values.count(); ++i) {
    if (std::isfinite(x[i]) && !(squares && x[i] < 0)) continue;
    fail(ErrorKind::kInput, "{}: \"{}\" is {} at element {}, expected {}", where, name, x[i], first + i,
         squares ? "a finite number >= 0" : "a finite number");
  }
}

/// Reads a parameter's moments, as far as they belong to this process's shard of them.
void read_moments(const formats::SafetensorsFile& file, const std::string& prefix, const model::TrainedParam& param,
                  const Tensor& shard, const Optimiser& optimiser, const std::string& where) {
  const std::string name = prefix + param.name;
  const formats::TensorEntry* entry = file.find(name);
  if (entry == nullptr) fail(ErrorKind::kInput, "{}: \"{}\" is missing", where, name);
  if (!(entry->shape == param.shape) || entry->dtype != DType::kF32) {
    fail(ErrorKind::kInput, "{}: \"{}\" is {} {}, expected F32 {}", where, name, dtype_name(entry->dtype),
         entry->shape.str(), param.shape.str());
  }
  const int64_t first = std::max(param.first, optimiser.shard_first()),
                end = std::min(param.first + param.shape.count(), optimiser.shard_end());
  if (first >= end) return;
  const Tensor values = entry->load().reshape({param.shape.count()}).rows(first - param.first, end - param.first);
  check_moments(values, first - param.first, prefix == "v.", name, where);
  const Tensor to = shard.rows(first - optimiser.shard_first(), end - optimiser.shard_first());
  Memory::copy(Memory::host(), static_cast<const std::byte*>(values.raw()), to.memory(),
               static_cast<std::byte*>(to.raw()), values.size_bytes());
}

State read_lane(const formats::SafetensorsFile& file, size_t lane, int64_t pos, const StateLayout& layout) {
  NamedTensors tensors;
  for (const StateLayout::Entry& entry : layout.entries()) {
    const formats::TensorEntry* found = file.find(lane_name(lane, entry.name));
    if (found != nullptr) tensors.push_back({entry.name, found->load()});
  }
  return tensors.empty() ? State() : State::from(tensors, pos, layout);
}

/// What is not trained is written in the type it was stored in, so that its bytes stay as they are.
std::optional<DType> kept_type(const model::TrainedModel& model, const model::FileTensor& tensor) {
  const auto stored = model.stored.find(tensor.name);
  if (stored == model.stored.end() || (stored->second != DType::kF16 && stored->second != DType::kBF16)) return {};
  const bool any = std::any_of(tensor.records.begin(), tensor.records.end(),
                               [&](size_t i) { return model.params->is_trained(model.records[i].name); });
  return any ? std::nullopt : std::optional(stored->second);
}

void write_run_file(const std::string& path, Trainer& trainer, const RunState& run, const Collected& all) {
  formats::write_safetensors(path, tensors_of(trainer, all), {{kRun, run_of(trainer, run, all).dump()}});
}

void write_checkpoint(const std::string& folder, Trainer& trainer, const RunState& run, const Collected& all) {
  const model::TrainedModel& model = trainer.model();
  const auto write_run = [&](auto& to) { write_run_file(to.file(kFile), trainer, run, all); };
  if (!model.params->adapter().modules.empty()) {
    formats::NewFolder out_folder(folder);
    model::write_adapter(model.params->adapter(), model.params->adapter_tensors(false), out_folder);
    write_run(out_folder);
    out_folder.keep();
    return;
  }
  const auto values = [&](const model::ParamRecord& record, float* to) { model.params->values(record, to); };
  const auto kept = [&](const model::FileTensor& tensor) { return kept_type(model, tensor); };
  const model::ModelConfig& config = model.model.config;
  model::write_model({config, model.place.config, model.records, DType::kF32, values, kept}, folder, model.beside, {},
                     write_run);
}

}  // namespace

size_t count_checkpoints(const std::string& out) { return complete_steps(out).size(); }

std::string checkpoint_folder(const std::string& out, int64_t step) {
  return fmt::format("{}/{}{}", out, kPrefix, step);
}

std::optional<std::string> latest_checkpoint(const std::string& out) {
  const std::vector<int64_t> steps = complete_steps(out);
  check_later(out, steps.empty() ? -1 : steps.back());
  return steps.empty() ? std::nullopt : std::optional(checkpoint_folder(out, steps.back()));
}

void save_checkpoint(const std::string& out, Trainer& trainer, const RunState& run) {
  const std::string folder = checkpoint_folder(out, trainer.optimiser().steps());
  Processes& processes = trainer.processes();
  const bool first = processes.rank() == 0;
  if (processes.any(first && is_complete(folder))) return;
  const Collected all(trainer);
  if (first) {
    const std::string unfinished = unfinished_folder(out, trainer.optimiser().steps());
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);  // of a run that was killed before it could rename it; `out` has one writer
    if (is_folder(folder)) formats::NewFolder{folder};  // one that is no checkpoint must be unfinished, and goes
    write_checkpoint(unfinished, trainer, run, all);
    formats::move_folder(unfinished, folder);
  }
  processes.wait();
}

void rewrite_run(const std::string& out, Trainer& trainer, const RunState& run) {
  const Collected all(trainer);
  if (trainer.processes().rank() == 0) {
    write_run_file(checkpoint_folder(out, trainer.optimiser().steps()) + "/" + kFile, trainer, run, all);
  }
  trainer.processes().wait();
}

RunState load_checkpoint(const std::string& folder, Trainer& trainer) {
  const std::string where = folder + "/" + kFile;
  const formats::SafetensorsFile file = formats::SafetensorsFile::open(where);
  const auto found = file.metadata().find(kRun);
  if (found == file.metadata().end()) fail(ErrorKind::kInput, "{}: no \"{}\" in the metadata", where, kRun);
  Fields fields(parse_json(found->second, where), where);
  constexpr int64_t kMost = INT64_MAX / 2;
  const int64_t steps = fields.integer("step", 0, kMost);
  check_run(fields, steps, folder, trainer);
  trainer.optimiser().set_steps(steps, fields.integer("skipped", 0, steps, 0));
  constexpr double kLargest = std::numeric_limits<double>::max();
  NormHistory& norms = trainer.norms();
  norms.count = fields.integer("norms", 0, kMost, 0);
  norms.mean = fields.number("norm_mean", 0, kLargest, 0);
  norms.variance = fields.number("norm_variance", 0, kLargest, 0);
  const int64_t rows = fields.integer("rows", 0, kMost);
  trainer.set_counters(rows, fields.integer("tokens", 0, kMost));
  const Optimiser& optimiser = trainer.optimiser();
  for (const model::TrainedParam& param : trainer.model().params->params()) {
    if (!param.trained) continue;
    read_moments(file, "m.", param, optimiser.m(), optimiser, where);
    if (optimiser.has_v(param)) read_moments(file, "v.", param, optimiser.v(), optimiser, where);
  }
  const std::vector<int64_t> positions = fields.integers("lanes", 0, kMost, size_t{1} << 24);
  if (positions.size() != trainer.lanes().size()) {
    fail(ErrorKind::kInput, "{}: \"lanes\" has {} positions, expected {}", where, positions.size(),
         trainer.lanes().size());
  }
  for (size_t lane = 0; lane < positions.size(); ++lane) {
    trainer.lanes()[lane] = read_lane(file, lane, positions[lane], trainer.model().model.state_layout());
  }
  return {fields.number("best", -kLargest, kLargest), fields.integer("best_step", 0, kMost),
          fields.boolean("unvalidated", false)};
}

void prune_checkpoints(const std::string& out, int64_t keep, int64_t best_step) {
  std::vector<int64_t> steps = complete_steps(out);
  std::error_code ignored;
  for (const std::string& name : names_in(out)) {  // what was left by a run that was killed
    if (name.starts_with(".removed-") || is_unfinished(name)) fs::remove_all(out + "/" + name, ignored);
  }
  for (size_t i = 0; i + static_cast<size_t>(keep) < steps.size(); ++i) {
    if (steps[i] == best_step) continue;
    // Renamed first: a folder of which half is gone must not be taken for a checkpoint.
    const std::string gone = fmt::format("{}/.removed-{}", out, steps[i]);
    fs::rename(checkpoint_folder(out, steps[i]), gone, ignored);
    fs::remove_all(gone, ignored);
  }
}

size_t checkpoint_bytes(Trainer& trainer) {
  const model::TrainedParams& params = *trainer.model().params;
  const bool adapter = !params.adapter().modules.empty();
  const int64_t weights = adapter ? params.gradients().count() : params.masters().count();
  size_t bytes = static_cast<size_t>(weights + 2 * params.gradients().count()) * sizeof(float) + (1 << 16);
  // How many pages of keys and values a lane will keep depends on the lengths of its documents, which are not known
  // before they are read: one page is counted.
  bytes += trainer.lanes().size() * trainer.model().model.state_layout().bytes_at(1);
  if (adapter) return bytes;
  for (const auto& [name, text] : trainer.model().beside) bytes += text.size();
  return bytes;
}

}  // namespace carousel::train
