// SPDX-License-Identifier: Apache-2.0
// An adapter added to its base: W + (alpha / R) B A, when a model is loaded, or as the files of a new model.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/adapter.h"
#include "carousel/model/load.h"
#include "carousel/model/model_writer.h"

namespace carousel::model {

/// Another source's parameters with an adapter added. A matrix that the adapter changes is held in f32, so that the sum
/// is not rounded; the others are as the source has them.
class MergedParams : public ParamSource {
 public:
  /// All outlive the source. Throws Error(kInput) where the adapter is one of another model.
  MergedParams(ParamSource& source, const Stream& stream, const AdapterFiles& files, const ModelConfig& config,
               const std::vector<ParamRecord>& records);
  /// Throws Error(kInput) where the source holds a matrix to be changed in blocks (q8, q4).
  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override;
  Tensor tensor(const std::string& name, const Shape& shape, const Init& init) override {
    return source_.tensor(name, shape, init);
  }
  std::shared_ptr<const Mask> mask(const std::string& name, std::shared_ptr<const Mask> drawn) override {
    return source_.mask(name, std::move(drawn));
  }

 private:
  struct Place {
    size_t module;  // into adapter_.modules
    int64_t first;  // the parameter's first row in the module
  };
  ParamSource& source_;
  const Stream& stream_;
  const AdapterFiles& files_;
  Adapter adapter_;
  std::unordered_map<std::string, Place> places_;  // by canonical name
};

/// Throws Error(kInput) where `where`, the base's weights, hold a tensor that the adapter changes in blocks (q8, q4):
/// the sum could not be stored.
void check_base_types(const formats::Checkpoint& checkpoint, const ModelConfig& config, const TensorNames& names,
                      const std::vector<ParamRecord>& records, const Adapter& adapter, const std::string& where);

/// Writes the folder `out`: the base model's files with the adapter added, under the same names. `dtype` is what all
/// floats are written in; unset: sums are written in f32, and the other tensors keep their types. Throws Error(kInput,
/// kIo, kCancelled).
void write_merged(const std::string& base, const std::string& adapter, const std::string& out, const Stream& stream,
                  std::optional<DType> dtype, const WriteProgress& progress = {});

/// A tensor of the base model's files with what the adapter adds to it, in f32.
Tensor merged_values(const formats::TensorEntry& entry, const AdapterFiles& files, const Adapter& adapter,
                     const Stream& stream);

}  // namespace carousel::model
