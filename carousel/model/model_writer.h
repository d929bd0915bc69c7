// SPDX-License-Identifier: Apache-2.0
// Writes a model folder: config.json, and model.safetensors under the names of the config's family. The folder appears
// whole or not at all.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/formats/new_file.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/beside.h"
#include "carousel/model/config.h"
#include "carousel/model/families/family.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// Is told the share done now and then, and 1 before the files are flushed. Returning false stops the work, which then
/// throws Error(kCancelled) and leaves nothing.
using WriteProgress = std::function<bool(double)>;
/// Throws Error(kCancelled), naming `out`, if `progress` is not empty and returns false.
void tell_progress(const WriteProgress& progress, double share, const std::string& out);

/// A tensor to be written.
struct FileTensor {
  std::string name;                     // the tensor's name in the file
  Shape shape;                          // the tensor's shape in the file
  std::vector<size_t> records;          // its parameters, in order: several where projections are stored fused
  std::optional<Permutation> permuted;  // the file's order, where it is not the block's
};
/// Whether a file holds the tensor of this name.
using HoldsTensor = std::function<bool(const std::string& file_name)>;
/// The tensors that `names` spells `records` as, in the order of their first parameters. Of several layouts the first
/// one that `holds` agrees to is taken; without `holds`, or where it agrees to none, the one that is written.
std::vector<FileTensor> file_tensors(const ModelConfig& config, const TensorNames& names,
                                     const std::vector<ParamRecord>& records, const HoldsTensor& holds = {});

/// Fills out [record.shape] with a parameter's values, in the block's order.
using ParamValues = std::function<void(const ParamRecord& record, float* out)>;
/// The values of one tensor in the file's order, f32. `values_of` is called with elements of `records`.
Tensor file_values(const FileTensor& tensor, const std::vector<ParamRecord>& records, const ParamValues& values_of);

/// A model folder while it is written. Without finish() nothing is left of it.
class ModelWriter {
 public:
  /// Throws Error(kIo): `out` exists and is not an empty folder, or cannot be written.
  ModelWriter(const std::string& out, const std::vector<formats::TensorSpec>& specs,
              const formats::Metadata& metadata = {{"format", "pt"}});
  /// Writes one tensor of the specs; each exactly once.
  void write(const std::string& name, const Tensor& values) { tensors_.write(name, values); }
  /// The path of another file, which the caller is about to write.
  std::string file(const std::string& name) { return folder_.file(name); }
  void write_config(const Json& config);  // writes config.json
  /// Writes what stands beside a model, as read_beside() gives it. Throws Error(kIo).
  void write_beside(const BesideFiles& files);
  /// Ends model.safetensors and completes the folder.
  void finish();

 private:
  formats::NewFolder folder_;
  formats::SafetensorsWriter tensors_;
};

/// The floating-point type that a tensor of the file keeps; nothing: it is written in the model's.
using KeptType = std::function<std::optional<DType>(const FileTensor& tensor)>;

/// A model as values; fresh and trained models are written from it.
struct ModelValues {
  const ModelConfig& config;
  std::string where;                 // the config's path, for messages
  std::vector<ParamRecord> records;  // all that the constructor asks for, in its order
  DType dtype = DType::kF32;         // type to write; an Init may keep a parameter in f32, masks are I8
  ParamValues values;                // called once for each record
  KeptType kept = {};                // empty: none is kept
};
/// Writes `model` into the new folder `out`, tensor by tensor, with its config, which names its dtype (set_dtype), and
/// what stands beside a model in the folder `beside`. `more` may write further files before the folder is complete.
/// Throws Error(kInput): a tensor does not fit in memory; Error(kIo, kCancelled).
void write_model(const ModelValues& model, const std::string& out, const BesideFiles& beside,
                 const WriteProgress& progress = {}, const std::function<void(ModelWriter&)>& more = {});

/// Says in a config.json that its model is in F32, F16 or BF16, under both names that transformers reads.
void set_dtype(Json& config, DType dtype);

}  // namespace carousel::model
