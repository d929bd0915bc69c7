// SPDX-License-Identifier: Apache-2.0
// `carousel info --train` says the memory that `carousel train` takes with the same options.
#pragma once

#include <CLI/CLI.hpp>

#include "carousel/cli/train_options.h"
#include "carousel/core/json.h"
#include "carousel/core/stream.h"
#include "carousel/model/cost.h"

namespace carousel::cli {

/// Declares the options of train that decide the memory of a step, in a group of their own.
void add_training_options(CLI::App& app, TrainOptions& options);
/// Throws Error(kUsage) where one of them was given.
void refuse_training_options(const CLI::App& app);
/// Describes the memory that a training step holds on the stream's threads. Throws Error(kUsage) for options that train
/// refuses, and as train::measure_footprint does.
Json describe_training(const model::ModelFiles& files, const Stream& stream, const TrainOptions& options);
void print_training(const Json& training);

}  // namespace carousel::cli
