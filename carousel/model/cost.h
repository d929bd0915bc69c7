// SPDX-License-Identifier: Apache-2.0
// The bytes of a model and the cost of a token, counted from the shapes its constructor asks for: nothing is loaded.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// The config at a path, and the headers of its weights if there are any.
struct ModelFiles {
  ModelPath place;
  std::optional<formats::Checkpoint> checkpoint;
  ModelConfig config;

  /// The dtype of parameter `name` in the checkpoint; without a checkpoint, config.json's "torch_dtype", F32 if absent.
  DType dtype_of(const std::string& name) const;
};
ModelFiles open_model_files(const std::string& path);

/// A projection with a wiring.
struct WiredProjection {
  std::string name;  // canonical, without ".weight"
  int64_t rows = 0, cols = 0;
  int64_t live = 0;  // how many of its rows * cols weights are live
  bool polarity = false;
};

struct ModelCost {
  DType dtype = DType::kF32;  // the type of most matrix elements
  int64_t held_bytes = 0;     // weights in memory, as packed
  int64_t decode_bytes = 0;   // weights read for one token: one row of a looked-up table, the chosen experts
  std::map<DType, int64_t> body_multiplies;  // multiply-adds of all projections but the head, per token, by their type
  std::map<DType, int64_t> head_multiplies;  // multiply-adds of the head, per row of logits
  std::vector<WiredProjection> wired;
  int64_t masked = 0;         // weights that wirings mask
  int64_t active_masked = 0;  // how many of these a token would be computed with
};
/// What a model costs in `memory`. `types`: the types of matrices that do not keep the files' own. Throws
/// Error(kDevice) for what the memory's device cannot hold.
ModelCost measure_cost(const ModelFiles& files, const WeightTypes& types = {}, Memory& memory = Memory::host());

/// Bytes that the weights of `files`, which are there, take in `memory` with these types, matrices used in the mapped
/// file aside.
size_t held_bytes(const ModelFiles& files, const WeightTypes& types, Memory& memory = Memory::host());

/// The model that loading `files` with these types would give, on meta and without its tokenizer: it has shapes, and
/// runs on a stream of meta's memory.
Model model_on_meta(const ModelFiles& files, const WeightTypes& types = {});

/// Memory that a sequence takes beside the weights. Activations are what the arena has reserved after a forward from
/// the zero state: seen by running that forward on meta with the threads and instruction set of a stream, as what an
/// arena reserves is decided by shapes alone.
struct Activations {
  size_t decode_bytes = 0;  // after a single row and its logits, where the model has any; 0 for a forecaster
  size_t prompt_bytes = 0;  // after prompt_rows rows and the logits of the last
  int64_t prompt_rows = 0;  // prefill_rows(), which longer prompts are cut into; of a forecaster, a whole context
  size_t state_bytes = 0;   // of the sequence, after prompt_rows rows
};
/// `model` may lie on the stream's memory or on meta.
Activations measure_activations(const Model& model, const Stream& stream);
/// Returns the bytes that a first prompt and the tokens after it take, with their sequence. Where work is recorded it
/// has an arena of its own (model/replay.h).
size_t first_run_bytes(const Activations& activations, const Memory& memory);
/// Activations of one more row of each of `batch` sequences of a language model, or of one sequence's next slab of a
/// prompt. Every sequence is in `seen`.
size_t decode_activations(const Lm& lm, const Stream& stream, const Numerics& numerics, const State& seen = {},
                          int64_t batch = 1);
size_t prompt_activations(const Lm& lm, const Stream& stream, const Numerics& numerics, int64_t rows,
                          const State& seen = {});

/// Throws Error(kInput) "where: ..." unless `samples` sequences that go on from `seen` by `tokens` tokens fit into the
/// memory of the stream beside what is there, with the activations of reading them. Every sample has a page of its own.
/// One sequence of up to prefill_rows() tokens is not looked at: loading has checked it.
void check_sequences(const Lm& lm, const Stream& stream, const std::string& where, const State& seen, int64_t tokens,
                     int64_t samples = 1);
/// The same for one forward of `sequences` of a regressor, `rows` new rows each, or of contexts of a forecaster.
void check_rows(const Regressor& regressor, const Stream& stream, const std::string& where, int64_t sequences,
                int64_t rows);
/// `further`: patches that a pass predicts beyond the first. No series is taken to be shorter than the context.
void check_contexts(const Forecaster& forecaster, const Stream& stream, const std::string& where, int64_t sequences,
                    int64_t further);

/// Bytes of the tensors one sequence always has, alignment between them aside.
int64_t fixed_state_bytes(const StateLayout& layout);

}  // namespace carousel::model
