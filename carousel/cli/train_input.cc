// SPDX-License-Identifier: Apache-2.0
// Data of a run, opened as its options say.
#include "carousel/cli/train_input.h"

#include <fmt/format.h>

#include <algorithm>
#include <initializer_list>

#include "carousel/cli/job.h"
#include "carousel/cli/progress.h"
#include "carousel/core/error.h"

namespace carousel::cli {
namespace {

/// Whether a path of the run names a file of one of the kinds.
bool reads(const TrainOptions& options, std::initializer_list<train::FileKind> kinds) {
  for (const std::vector<std::string>* const paths : {&options.data, &options.valid}) {
    for (const std::string& path : *paths) {
      for (const train::DataFile& file : train::list_files(train::parse_data_path(path).path)) {
        if (std::find(kinds.begin(), kinds.end(), file.kind) != kinds.end()) return true;
      }
    }
  }
  return false;
}

/// A path of features: a weight would have no effect.
std::string feature_path(const char* option, const std::string& argument) {
  const train::DataPath path = train::parse_data_path(argument);
  if (path.weight == 0) return path.path;
  fail(ErrorKind::kUsage, "{}: got the weight {} in \"{}\", expected none: an epoch takes every row of features once",
       option, path.weight, argument);
}

/// An option, and whether it was given.
struct Given {
  const char* option;
  bool given;
};

void refuse_given(const char* why, std::initializer_list<Given> options) {
  for (const Given& one : options) {
    if (one.given) fail(ErrorKind::kUsage, "{}: got a value, expected none: {}", one.option, why);
  }
}

}  // namespace

TrainInput::TrainInput(const TrainOptions& options, const std::string& path, const model::TrainedModel& model,
                       bool valid) {
  check_data_options(options, model.model);
  const FirstGoesFirst turn;                           // of writing token caches
  const bool other = valid && !options.valid.empty();  // files of their own
  side_ = other || options.valid_fraction == 0 ? train::Side::kAll : valid ? train::Side::kValid : train::Side::kTrain;
  train::OrderOptions order;
  order.seed = static_cast<uint64_t>(options.seed);
  order.order = valid || options.order == "sequential" ? train::Order::kSequential : train::Order::kShuffled;
  order.carry_state = options.carry_state && !valid;
  order.lanes = options.batch;
  if (model.model.forecaster != nullptr) {
    fail(ErrorKind::kInput, "{}: got a forecaster, expected a model of tokens or features", path);
  }
  if (model.model.lm != nullptr) {
    read_tokens(options, path, model, other ? options.valid : options.data, order);
  } else {
    read_features(options, model, other, order);
  }
}

void TrainInput::read_tokens(const TrainOptions& options, const std::string& path, const model::TrainedModel& model,
                             const std::vector<std::string>& paths, const train::OrderOptions& order) {
  vocabulary_ = train::vocabulary_of(path, model.model);
  train::DataOptions data;
  for (const std::string& one : paths) data.paths.push_back(train::parse_data_path(one));
  if (!options.separator.empty()) data.source.read.separator = options.separator;
  data.source.read.key = options.key;
  data.source.read.loss_on = options.loss_on == "all" ? train::LossOn::kAll : train::LossOn::kAnswers;
  data.source.read.id_bytes = options.ids == "u16" ? 2 : options.ids == "u32" ? 4 : 0;
  data.source.side = side_;
  data.source.valid_fraction = options.valid_fraction;
  data.source.cache_folder = options.out + "/cache";
  data.source.reading = [](const std::string& file) { note(fmt::format("{}: reading", file)); };
  data.seq = options.seq;
  data.order = order;
  data_ = std::make_unique<train::Data>(data, *vocabulary_);
  batches_ = std::make_unique<train::TokenBatches>(*data_);
}

void TrainInput::read_features(const TrainOptions& options, const model::TrainedModel& model, bool of_valid,
                               const train::OrderOptions& order) {
  const std::vector<std::string>& paths = of_valid ? options.valid : options.data;
  const std::vector<std::string>& targets = of_valid ? options.valid_target : options.target;
  const std::vector<std::string>& times = of_valid ? options.valid_times : options.times;
  const char* const option = of_valid ? "--valid" : "--data";
  if (targets.size() != paths.size() || (!times.empty() && times.size() != paths.size())) {
    const char* const prefix = of_valid ? "--valid-" : "--";
    fail(ErrorKind::kUsage, "got {} {}, {} {}target and {} {}times, expected a {}target for every {}", paths.size(),
         option, targets.size(), prefix, times.size(), prefix, prefix, option);
  }
  const model::Regressor& regressor = *model.model.regressor;
  train::FeatureOptions features;
  for (size_t i = 0; i < paths.size(); ++i) {
    const train::FeatureFiles named = {feature_path(option, paths[i]), targets[i], times.empty() ? "" : times[i]};
    for (const train::FeatureFiles& files : train::list_feature_files(named)) features.files.push_back(files);
  }
  features.side = side_;
  features.valid_fraction = options.valid_fraction;
  features.seq = options.seq;
  features.order = order;
  const int64_t inputs = regressor.input_size(), outputs = regressor.output_size();
  features_ = std::make_unique<train::FeatureData>(features, inputs, outputs);
  batches_ = std::make_unique<train::FeatureBatches>(*features_, inputs, outputs);
}

void check_data_options(const TrainOptions& options, const model::Model& model) {
  if (!options.resume.empty()) return;  // what a run began with stays
  if (model.regressor != nullptr) {
    const bool samples = options.sample_every > 0;
    refuse_given("the model reads features, no text", {{"--separator", !options.separator.empty()},
                                                       {"--key", !options.key.empty()},
                                                       {"--ids", !options.ids.empty()},
                                                       {"--sample-every", samples},
                                                       {"--sample-prompt", !options.sample_prompt.empty()}});
    if (!options.valid.empty()) return;
    refuse_given("there is no --valid",
                 {{"--valid-target", !options.valid_target.empty()}, {"--valid-times", !options.valid_times.empty()}});
    return;
  }
  refuse_given("the model reads tokens, no features", {{"--target", !options.target.empty()},
                                                       {"--times", !options.times.empty()},
                                                       {"--valid-target", !options.valid_target.empty()},
                                                       {"--valid-times", !options.valid_times.empty()}});
  using train::FileKind;
  if (!options.key.empty() && !reads(options, {FileKind::kJsonl})) {
    refuse_given("no file of the data is .jsonl", {{"--key", true}});
  }
  if (!options.ids.empty() && !reads(options, {FileKind::kBin, FileKind::kNpy})) {
    refuse_given("no file of the data is .bin or .npy", {{"--ids", true}});
  }
}

}  // namespace carousel::cli
