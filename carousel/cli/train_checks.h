// SPDX-License-Identifier: Apache-2.0
// These checks refuse before the first step of a run what it would find at its end.
#pragma once

#include <cstdint>
#include <string>

#include "carousel/cli/train_options.h"
#include "carousel/train/trainer.h"

namespace carousel::cli {

/// Throws Error(kInput) where memory lacks for what training the model at `from` takes whatever its data are; before
/// anything is allocated.
void check_model_memory(const std::string& from, const Stream& stream, const train::StepShape& step);
/// The same for what a step takes beside a model that is loaded: the system would kill a run that takes more than there
/// is.
void check_step_memory(const std::string& from, const Stream& stream, const train::StepShape& step);

/// Throws Error(kInput) where a resumed run's --model is not the one that `kept`, the file of its options, names: the
/// checkpoint is of that one.
void check_same_model(const std::string& given, const std::string& kept);

/// A loss over no target would be 0, and the best. Throws Error(kInput) naming the option that says which rows are
/// used.
void check_targets(train::Batches& data, int64_t rows, const char* option);

/// Throws Error(kIo) where the checkpoints that the run will keep find no room. What it has kept already needs no more.
void check_space(const TrainOptions& options, train::Trainer& trainer);

}  // namespace carousel::cli
