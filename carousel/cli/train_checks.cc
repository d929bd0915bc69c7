// SPDX-License-Identifier: Apache-2.0
// Checks of a run's data and of the disk it writes to.
#include "carousel/cli/train_checks.h"

#include <algorithm>
#include <filesystem>

#include "carousel/cli/progress.h"
#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/train/checkpoint.h"

namespace carousel::cli {

void check_model_memory(const std::string& from, const Stream& stream, const train::StepShape& step) {
  train::StepShape least = step;
  least.lengths = {1};
  const model::ModelFiles files = model::open_model_files(from);
  if (files.config.kind == model::ModelKind::kForecaster) return;  // refused with its data
  model::check_memory(train::measure_footprint(files, stream, least).total(), from, "training");
}

void check_step_memory(const std::string& from, const Stream& stream, const train::StepShape& step) {
  const train::Footprint footprint = train::measure_footprint(model::open_model_files(from), stream, step);
  model::check_memory(footprint.of_step(), from, "a step of training");
}

void check_same_model(const std::string& given, const std::string& kept) {
  const Json options = read_json_file(kept, {size_t{1} << 20, 16});
  Json expected = options.contains("model") ? options["model"] : Json();
  if (expected.is_array() && !expected.empty()) expected = expected.front();  // paths are lists there
  if (!expected.is_string()) return;
  const auto canonical = [](const std::string& path) {
    std::error_code error;
    const std::filesystem::path found = std::filesystem::weakly_canonical(std::filesystem::absolute(path), error);
    return error ? std::filesystem::path(path) : found;
  };
  const std::string path = expected.get<std::string>();
  if (canonical(given) == canonical(path)) return;
  fail(ErrorKind::kInput, "--model: got {}, expected {} as in {}, where the path of a model that was moved is mended",
       given, path, kept);
}

void check_targets(train::Batches& data, int64_t rows, const char* option) {
  for (int64_t row = 0; row < rows; ++row) {
    if (data.take(row, 1).counted() > 0) return;
  }
  fail(ErrorKind::kInput, "{}: no target counts in the {} rows, expected some text that is learnt", option, rows);
}

void check_space(const TrainOptions& options, train::Trainer& trainer) {
  const size_t kept = static_cast<size_t>(options.keep) + (options.save_best ? 1 : 0);
  const size_t checkpoints = kept + 1 - std::min(kept, train::count_checkpoints(options.out));
  const size_t needed = checkpoints * train::checkpoint_bytes(trainer);
  const std::filesystem::space_info space = std::filesystem::space(options.out);
  if (space.available >= needed) return;
  fail(ErrorKind::kIo, "{}: {} are free, expected {} for {} checkpoints", options.out,
       in_binary_units(static_cast<double>(space.available)), in_binary_units(static_cast<double>(needed)),
       checkpoints);
}

}  // namespace carousel::cli
