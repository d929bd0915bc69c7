// SPDX-License-Identifier: Apache-2.0
// A model from one kind of file to another: GGUF, or a folder with config.json, safetensors and tokenizer.json. Weights
// go tensor by tensor, bit for bit where their type stays; nothing is loaded as a whole.
#pragma once

#include <functional>
#include <string>

#include "carousel/core/stream.h"
#include "carousel/formats/ggml_blocks.h"
#include "carousel/model/model_writer.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// Chooses the type to write a matrix in, one that encode_ggml takes, given its record and the tensor it is read
/// from; nullptr: the type it has. A matrix whose rows are not whole blocks keeps its type.
using TypeOf = std::function<const formats::GgmlType*(const ParamRecord& record, const formats::TensorEntry& entry)>;

/// Writes FILE.gguf, whole or not at all. Vectors, convolutions and routers are widened to F32, as readers of the
/// format expect; the keys "carousel.widened.*" list the ones that were narrower. Throws Error(kInput, kIo).
void write_gguf(const std::string& model, const std::string& out, const Stream& stream, const TypeOf& type = {},
                const WriteProgress& progress = {});

/// Writes a folder, which must be new or empty, with the names and config of the model's family, and what stands beside
/// a language model (read_beside; of a GGUF file, what its keys say of tokenizer and chat). Tensors in blocks are
/// written in `blocks_as` (F32, F16, BF16). Throws Error(kInput, kIo).
void write_folder(const std::string& model, const std::string& out, const Stream& stream, DType blocks_as,
                  const WriteProgress& progress = {});

/// A tensor that keeps its type though another was chosen.
struct KeptTensor {
  std::string line;                     // for people: its name in the file, its type, and the reason
  std::vector<std::string> parameters;  // what it holds, by canonical names
};

/// The same with matrices in the types that `type` chooses. Other tensors keep their type, blocks among them. Returns
/// the matrices that keep their type though another was chosen.
std::vector<KeptTensor> write_folder(const std::string& model, const std::string& out, const Stream& stream,
                                     const TypeOf& type, const WriteProgress& progress);

}  // namespace carousel::model
