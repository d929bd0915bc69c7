// SPDX-License-Identifier: Apache-2.0
// Rewrites a model's files with its matrices in other types.
#pragma once

#include <functional>
#include <string>

#include "carousel/formats/safetensors.h"
#include "carousel/model/config.h"
#include "carousel/model/convert.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// The contents of a rewritten checkpoint: every tensor of the old one under its name, in its new type.
struct QuantisePlan {
  struct Item {
    const formats::TensorEntry* entry;
    DType dtype;  // the type to write
  };
  std::vector<Item> items;  // in the order of the old checkpoint's bytes
  std::vector<KeptTensor> kept;
  size_t bytes_before = 0, bytes_after = 0;
};

/// The type a matrix is to be written in, if not its own: the one in `types`, or f16 where that is a block type and the
/// matrix is held as its live weights alone.
std::optional<DType> written_dtype(const WeightTypes& types, const std::string& name, Weight::Layout layout,
                                   const Init& init);

/// written_dtype as the choice that write_gguf and write_folder take.
TypeOf type_choice(const WeightTypes& types, bool tied);

/// Plans the types that `types`, as with_mix leaves them, has for matrices; fitting_dtype has the last word. Three
/// kinds of tensor keep their own: one that holds several matrices whose types disagree, one that the family reads in
/// another order than the file's, and, where the new type has blocks, one whose rows are no whole blocks of any.
QuantisePlan plan_quantised(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
                            const std::string& where);

/// The new values of one planned tensor, its conversion split over the stream's threads. Throws Error(kInput) where a
/// value is not finite or beyond what the type can hold.
Tensor quantised(const QuantisePlan::Item& item, const Stream& stream, const std::string& where);

/// What was written.
struct QuantiseResult {
  size_t bytes_before = 0, bytes_after = 0;
  std::vector<std::string> kept;  // lines about matrices that keep their type, or get another than the one asked for
};
/// Writes the model at `path` into the new folder `out`: model.safetensors, and config, tokenizer and generation config
/// as they are, or as a GGUF file's keys say them. `progress`, if any, is told the share done before every tensor and
/// stops the work by returning false; then, as on any error, nothing is left behind and Error(kCancelled) is thrown.
/// 1 is told before the model is flushed and becomes visible. Throws Error(kIo) where another run is writing `out`.
QuantiseResult write_quantised(const std::string& path, const WeightTypes& types, const Stream& stream,
                               const std::string& out, const std::function<bool(double)>& progress = {});
/// The same into one file, which write_gguf writes.
QuantiseResult write_quantised_gguf(const std::string& path, const WeightTypes& types, const Stream& stream,
                                    const std::string& out, const std::function<bool(double)>& progress = {});

}  // namespace carousel::model
