// SPDX-License-Identifier: Apache-2.0
// The options of `carousel train`: from flags, from a file of the same names, and back into the file that a run keeps.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "carousel/cli/compute_options.h"
#include "carousel/core/json.h"
#include "carousel/train/footprint.h"
#include "carousel/train/trainer.h"

namespace carousel::cli {

struct TrainOptions {
  std::string model, out, resume, config;
  // Data.
  std::vector<std::string> data, valid, target, times, valid_target, valid_times;
  double valid_fraction = 0;
  std::string separator, key, ids, order = "shuffled", loss_on = "answers";
  int64_t seq = 512;
  bool carry_state = false;
  // Recipe.
  int64_t steps = 0, tokens = 0, batch = 8, micro_batch = 0;
  bool recompute = false;
  double epochs = 0;
  double lr = 1e-3, muon_lr = 0.02, lr_min = 0.1, eps = 1e-8, decay = 0.1, clip = 1, skip_spikes = 0;
  double dropout = 0;
  std::string schedule = "cosine", warmup = "2%", cooldown = "20%", optim = "adamw", betas = ".9,.95";
  std::string decays = "matrices";
  std::string batch_ramp, profile = "native";
  bool find_lr = false;
  int64_t seed = 0;
  // Fine-tuning.
  std::vector<std::string> freeze, lora_targets;
  std::string lora;
  // These say when checkpoints, validations, samples and lines come.
  int64_t save_every = 0, keep = 2, eval_every = 0, eval_rows = 64, log_every = 10;
  int64_t sample_every = 0, sample_tokens = 64;
  std::string sample_prompt;
  bool save_best = false, dry_run = false;
  Machine machine;

  void add_options(CLI::App& app);
  /// Declares the options that decide what memory a step takes; add_options() calls it, and so does `info --train`.
  void add_step_options(CLI::App& app);
  /// Takes what `path` says where no flag was given. Throws Error(kInput) for an unknown name, as the flag does for a
  /// value.
  static void read_config(CLI::App& app, const std::string& path);
  /// All options with their values, paths made absolute, for OUT/train.json.
  static Json resolved(const CLI::App& app);
  /// Throws Error(kUsage) for what a run cannot begin with.
  void check() const;
  /// The rows of each step. Throws Error(kUsage).
  train::BatchRamp ramp() const;
  /// Makes of --freeze and --lora what the run trains. Throws Error(kUsage).
  model::Tuning tuning() const;
  /// The recipe for data of `rows` rows an epoch. Throws Error(kUsage).
  train::Recipe recipe(int64_t rows) const;
  /// The largest step of the run, as far as it decides the step's memory. Throws Error(kUsage).
  train::StepShape step() const;
};

}  // namespace carousel::cli
