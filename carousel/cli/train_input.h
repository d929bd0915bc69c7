// SPDX-License-Identifier: Apache-2.0
// The data that a run reads: tokens or features, of training or of validation.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "carousel/cli/train_options.h"
#include "carousel/model/load.h"
#include "carousel/train/batches.h"
#include "carousel/train/vocabulary.h"

namespace carousel::cli {

class TrainInput {
 public:
  /// path: the model's. Meeting: token caches are written by one process. Throws Error(kIo, kInput, kUsage).
  TrainInput(const TrainOptions& options, const std::string& path, const model::TrainedModel& model, bool valid);
  train::Batches& batches() { return *batches_; }

 private:
  void read_tokens(const TrainOptions& options, const std::string& path, const model::TrainedModel& model,
                   const std::vector<std::string>& paths, const train::OrderOptions& order);
  void read_features(const TrainOptions& options, const model::TrainedModel& model, bool of_valid,
                     const train::OrderOptions& order);

  train::Side side_;
  std::optional<train::Vocabulary> vocabulary_;
  std::unique_ptr<train::Data> data_;
  std::unique_ptr<train::FeatureData> features_;
  std::unique_ptr<train::Batches> batches_;
};

/// Throws Error(kUsage) for an option that no file of the run is read by: targets of a language model, say.
void check_data_options(const TrainOptions& options, const model::Model& model);

}  // namespace carousel::cli
