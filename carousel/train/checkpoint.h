// SPDX-License-Identifier: Apache-2.0
// Checkpoints of a run: OUT/step-N is a model folder as anybody loads it, in f32, or an adapter's, and
// train.safetensors beside the weights, which holds what resuming needs more: moments, counters, carried states.
#pragma once

#include <optional>
#include <string>

#include "carousel/train/trainer.h"

namespace carousel::train {

/// What a run knows besides its trainer.
struct RunState {
  double best = 0;           // the lowest loss on validation data
  int64_t best_step = 0;     // 0: there was none
  bool unvalidated = false;  // the validation that is due after this step was interrupted
};

/// OUT/step-N for N = steps done.
std::string checkpoint_folder(const std::string& out, int64_t step);
/// The newest complete checkpoint; nothing: there is none.
std::optional<std::string> latest_checkpoint(const std::string& out);
/// Meeting: rank 0 writes the checkpoint of the trainer's step: as OUT/.step-N.partial, flushed, then renamed. One that
/// is there already is left. It is the same for any number of processes. No other run may write to `out` at the same
/// time. Throws Error(kIo).
void save_checkpoint(const std::string& out, Trainer& trainer, const RunState& run);
/// Meeting: replaces train.safetensors in the checkpoint of the trainer's step, which is there. Throws Error(kIo).
void rewrite_run(const std::string& out, Trainer& trainer, const RunState& run);
/// Reads train.safetensors of `folder` into a trainer whose model was loaded from there. A process keeps the moments of
/// its shard and the states of all lanes. Throws Error(kIo, kInput).
RunState load_checkpoint(const std::string& folder, Trainer& trainer);
/// Removes the oldest checkpoints but for `keep` and the best one, and what a run that was killed did not finish.
void prune_checkpoints(const std::string& out, int64_t keep, int64_t best_step);
/// How many complete checkpoints a run has.
size_t count_checkpoints(const std::string& out);
/// Bytes that a checkpoint takes at most, but for what attention keeps of long documents in carried states.
size_t checkpoint_bytes(Trainer& trainer);

}  // namespace carousel::train
