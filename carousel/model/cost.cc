// SPDX-License-Identifier: Apache-2.0
// Counts bytes and multiply-adds from the shapes that a model's constructor asks for.
#include "carousel/model/cost.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "carousel/core/error.h"
#include "carousel/model/params.h"
#include "carousel/model/runner.h"
#include "carousel/model/stored_params.h"

namespace carousel::model {
namespace {

/// The matrix as `memory` would hold it. What its device cannot hold is refused by the parameter's name.
Weight counted_weight(const ParamRecord& record, DType dtype, Memory& memory) {
  try {
    return weight_for(record.init, record.shape[0], record.shape[1], dtype, record.layout, memory.counted());
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kDevice) throw;
    fail(ErrorKind::kDevice, "{}: {}", record.name, error.what());
  }
}

// Counts parameters one after the other. Of the experts' parameters a token reads the chosen share.
class Counter {
 public:
  Counter(const ModelFiles& files, const WeightTypes& types, Memory& memory)
      : files_(files), types_(types), memory_(memory) {}

  void add(const ParamRecord& record) {
    if (record.init.kind == Init::Kind::kMask) return;  // a mask belongs to a parameter, and is none itself
    if (record.matrix) return add_matrix(record);
    if (record.init.mask) note_wired(record.name, record.init);
    const int64_t bytes = record.shape.count() * static_cast<int64_t>(sizeof(float));
    cost.held_bytes += bytes;
    cost.decode_bytes += bytes;
  }

  ModelCost cost;

 private:
  void add_matrix(const ParamRecord& record) {
    const int64_t rows = record.shape[0], cols = record.shape[1];
    const Init& init = record.init;
    const DType dtype = types_.held(record.name, cols, record.layout, init, files_.dtype_of(record.name));
    const Weight weight = counted_weight(record, dtype, memory_);
    const int64_t live = init.mask ? note_wired(record.name, init) : rows * cols;
    const auto bytes = static_cast<int64_t>(weight.size_bytes());
    cost.held_bytes += bytes;
    elements_[dtype] += rows * cols;
    if (elements_[dtype] > elements_[cost.dtype]) cost.dtype = dtype;
    if (record.layout == Weight::Layout::kRows) {
      cost.decode_bytes += static_cast<int64_t>(dtype_bytes(dtype, static_cast<size_t>(cols)));
      return;
    }
    if (init.read_share < 1) {
      cost.decode_bytes += add_share(&shared_bytes_, init.read_share * static_cast<double>(bytes));
      cost.body_multiplies[dtype] += add_share(&shared_multiplies_, init.read_share * static_cast<double>(live));
      return;
    }
    cost.decode_bytes += bytes;
    const bool head = record.name == "lm_head.weight" || record.name == "embeddings.weight";
    (head ? cost.head_multiplies : cost.body_multiplies)[dtype] += live;
  }

  // Returns its live weights.
  int64_t note_wired(const std::string& name, const Init& init) {
    const std::string projection = name.substr(0, name.rfind(".weight"));
    const Mask& mask = *init.mask;
    const int64_t live = mask.live(), masked = mask.rows() * mask.cols() - live;
    cost.wired.push_back({projection, mask.rows(), mask.cols(), live, mask.polarity()});
    cost.masked += masked;
    cost.active_masked += add_share(&shared_masked_, init.read_share * static_cast<double>(masked));
    return live;
  }
  // Returns by how much the rounded total grows, so that the rounding of single shares does not add up.
  static int64_t add_share(double* total, double share) {
    const int64_t before = std::llround(*total);
    *total += share;
    return std::llround(*total) - before;
  }

  std::map<DType, int64_t> elements_;
  double shared_bytes_ = 0, shared_multiplies_ = 0, shared_masked_ = 0;
  const ModelFiles& files_;
  const WeightTypes& types_;
  Memory& memory_;
};

/// The mask a projection has in the files, else the one that is drawn.
ShapeSource::MaskOf stored_masks(const StoredParams& stored, const std::string& where) {
  return [&stored, where](const std::string& name, const std::shared_ptr<const Mask>& drawn) {
    const formats::TensorEntry* entry = stored.find(name).entry;
    if (entry == nullptr) return drawn;
    return read_mask(*entry, drawn->rows(), drawn->cols(), drawn->polarity(), where);
  };
}

Stream on_meta(const Stream& stream) {
  Stream meta = stream;
  meta.memory = &stream.memory->counted();
  return meta;
}

/// The bytes that an arena and the sequences of a batch hold.
struct Held {
  size_t arena = 0, states = 0;
};

/// New sequences, each with as many rows.
struct FreshBatch {
  FreshBatch(int64_t sequences, int64_t rows)
      : own(static_cast<size_t>(sequences)), lengths(static_cast<size_t>(sequences), rows) {
    for (State& state : own) states.push_back(&state);
  }
  Held held(const Arena& arena) const {
    Held out{arena.size_bytes()};
    for (const State& state : own) out.states += state.bytes();
    return out;
  }
  std::vector<State> own;
  std::vector<State*> states;
  std::vector<int64_t> lengths;
};

/// After the first `rows` rows of a regressor's sequences.
Held run_rows(const Regressor& regressor, const Stream& meta, const Numerics& numerics, int64_t rows,
              int64_t sequences = 1) {
  Predictor predictor(regressor, meta, numerics);
  FreshBatch batch(sequences, rows);
  predictor.forward(Tensor(Shape{sequences * rows, regressor.input_size()}, DType::kF32), {}, batch.states,
                    batch.lengths);
  return batch.held(predictor.arena());
}

/// After contexts of a forecaster, as Tirex runs them.
Held run_contexts(const Forecaster& forecaster, const Stream& meta, int64_t sequences = 1, int64_t further = 0) {
  Pass pass(meta, Numerics::native());
  const int64_t rows = forecaster.patches().tokens() + further;
  FreshBatch batch(sequences, rows);
  const Tensor tokens(Shape{sequences * rows, 2 * forecaster.patches().patch}, DType::kF32, *meta.memory);
  pass.run(forecaster.state_layout(), batch.states, batch.lengths, {},
           [&](Ctx& ctx, const Seqs& seqs, const StateBatch* bound) {
             return forecaster.forward(ctx, tokens, seqs, bound);
           });
  return batch.held(pass.arena());
}

/// A language model's next `rows` rows of a sequence on meta, and the logits of the last.
size_t run_prompt(const Lm& lm, const Stream& meta, const Numerics& numerics, int64_t rows, State& state) {
  Runner runner(lm, meta, numerics);
  runner.logits(runner.prefill(std::vector<int32_t>(static_cast<size_t>(rows), 0), state));
  return runner.arena().size_bytes();
}

/// Returns the bytes that the arenas of a prompt and of decoding hold together.
size_t arenas_bytes(size_t prompt, size_t decode, const Memory& memory) {
  return memory.records() ? prompt + decode : std::max(prompt, decode);
}

}  // namespace

DType ModelFiles::dtype_of(const std::string& name) const {
  const StoredParams stored(config, checkpoint ? &*checkpoint : nullptr, place.config);
  if (const formats::TensorEntry* entry = stored.find_weight(name).entry) return held_dtype(*entry);
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!config.source.contains(key)) continue;
    if (config.source[key] == "bfloat16") return DType::kBF16;
    if (config.source[key] == "float16") return DType::kF16;
  }
  return DType::kF32;
}

ModelFiles open_model_files(const std::string& path) {
  ModelFiles files;
  files.place = resolve(path);
  if (!files.place.weights.empty()) files.checkpoint = formats::Checkpoint::open(files.place.weights);
  files.config = read_model_config(files.place, files.checkpoint ? &*files.checkpoint : nullptr);
  return files;
}

ModelCost measure_cost(const ModelFiles& files, const WeightTypes& types, Memory& memory) {
  const WeightTypes chosen = with_mix(types, files.config, files.place.config);
  Counter counter(files, chosen, memory);
  const StoredParams stored(files.config, files.checkpoint ? &*files.checkpoint : nullptr, files.place.config);
  ShapeSource source([&](const ParamRecord& record) { counter.add(record); },
                     stored_masks(stored, files.place.weights));
  declare_params(files.config, source, files.place.config);
  return counter.cost;
}

size_t held_bytes(const ModelFiles& files, const WeightTypes& types, Memory& memory) {
  const StoredParams stored(files.config, &*files.checkpoint, files.place.config);
  size_t bytes = 0;
  ShapeSource source(
      [&](const ParamRecord& record) {
        if (record.init.kind == Init::Kind::kMask) return;
        if (!record.matrix) {
          bytes += static_cast<size_t>(record.shape.count()) * sizeof(float);
          return;
        }
        const StoredParams::Found found = stored.find_weight(record.name);
        const int64_t cols = record.shape[1];
        const DType own = found.entry != nullptr ? held_dtype(*found.entry) : DType::kF32;
        const DType dtype = types.held(record.name, cols, record.layout, record.init, own);
        if (found.entry != nullptr && types.maps(*found.entry, found.permuted, record.init, dtype)) return;
        bytes += counted_weight(record, dtype, memory).size_bytes();
      },
      stored_masks(stored, files.place.weights));
  declare_params(files.config, source, files.place.config);
  return bytes;
}

Model model_on_meta(const ModelFiles& files, const WeightTypes& asked) {
  const WeightTypes types = with_mix(asked, files.config, files.place.config);
  const StoredParams stored(files.config, files.checkpoint ? &*files.checkpoint : nullptr, files.place.config);
  MetaParams params(
      [&](const ParamRecord& record) {
        return types.held(record.name, record.shape[1], record.layout, record.init, files.dtype_of(record.name));
      },
      stored_masks(stored, files.place.weights));
  Model model;
  model.config = files.config;
  make_body(model, params, files.place.config);
  return model;
}

size_t first_run_bytes(const Activations& activations, const Memory& memory) {
  return arenas_bytes(activations.prompt_bytes, activations.decode_bytes, memory) + activations.state_bytes;
}

size_t decode_activations(const Lm& lm, const Stream& stream, const Numerics& numerics, const State& seen,
                          int64_t batch) {
  const Stream meta = on_meta(stream);
  const auto count = static_cast<size_t>(batch);
  std::vector<State> sequences(count, seen.to(*meta.memory));
  std::vector<State*> states;
  for (State& state : sequences) states.push_back(&state);
  Runner runner(lm, meta, numerics);
  const std::vector<int64_t> lengths(count, 1);
  runner.logits(runner.forward(std::vector<int32_t>(count, 0), states, lengths));
  return runner.arena().size_bytes();
}

size_t prompt_activations(const Lm& lm, const Stream& stream, const Numerics& numerics, int64_t rows,
                          const State& seen) {
  const Stream meta = on_meta(stream);
  State state = seen.to(*meta.memory);
  return run_prompt(lm, meta, numerics, rows, state);
}

void check_sequences(const Lm& lm, const Stream& stream, const std::string& where, const State& seen, int64_t tokens,
                     int64_t samples) {
  if (samples == 1 && seen.pos() + tokens <= prefill_rows(*stream.memory)) return;
  const StateLayout& layout = lm.state_layout();
  const size_t whole = layout.bytes_at(seen.pos() + tokens);
  const size_t states =
      whole - std::min(whole, seen.bytes_in(*stream.memory)) + static_cast<size_t>(samples - 1) * layout.bytes_at(1);
  const int64_t rows = std::min(tokens, prefill_rows(*stream.memory));
  const size_t reading = rows > 0 ? prompt_activations(lm, stream, Numerics::native(), rows) : 0;
  const size_t decoding = decode_activations(lm, stream, Numerics::native(), {}, samples);
  const size_t activations = arenas_bytes(reading, decoding, *stream.memory);
  check_memory(states + activations, where, "states and activations", *stream.memory);
}

void check_rows(const Regressor& regressor, const Stream& stream, const std::string& where, int64_t sequences,
                int64_t rows) {
  const Held held = run_rows(regressor, on_meta(stream), Numerics::native(), rows, sequences);
  check_memory(held.arena + held.states, where, "states and activations", *stream.memory);
}

void check_contexts(const Forecaster& forecaster, const Stream& stream, const std::string& where, int64_t sequences,
                    int64_t further) {
  const Held held = run_contexts(forecaster, on_meta(stream), sequences, further);
  check_memory(held.arena + held.states, where, "states and activations", *stream.memory);
}

Activations measure_activations(const Model& model, const Stream& stream) {
  const Stream meta = on_meta(stream);
  Activations out;
  const int64_t rows = prefill_rows(*meta.memory);
  out.prompt_rows = rows;
  if (model.lm) {
    State state;
    out.decode_bytes = decode_activations(*model.lm, meta, *model.numerics);
    out.prompt_bytes = run_prompt(*model.lm, meta, *model.numerics, rows, state);
    out.state_bytes = state.bytes();
  } else if (model.regressor) {
    out.decode_bytes = run_rows(*model.regressor, meta, *model.numerics, 1).arena;
    const Held held = run_rows(*model.regressor, meta, *model.numerics, rows);
    out.prompt_bytes = held.arena;
    out.state_bytes = held.states;
  } else {
    out.prompt_rows = model.forecaster->patches().tokens();
    const Held held = run_contexts(*model.forecaster, meta);
    out.prompt_bytes = held.arena;
    out.state_bytes = held.states;
  }
  return out;
}

int64_t fixed_state_bytes(const StateLayout& layout) {
  int64_t bytes = 0;
  for (const StateLayout::Entry& entry : layout.entries()) {
    if (!entry.spec.per_token) bytes += entry.spec.shape.count() * static_cast<int64_t>(dtype_size(entry.spec.dtype));
  }
  return bytes;
}

}  // namespace carousel::model
