// SPDX-License-Identifier: Apache-2.0
// A model folder written tensor by tensor, each assembled from the parameters that it holds in the file.
#include "carousel/model/model_writer.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/load.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

DType written_as(const ModelValues& model, const FileTensor& tensor) {
  const Init& first = model.records[tensor.records.front()].init;
  if (first.kind == Init::Kind::kMask) return DType::kI8;
  if (const auto kept = model.kept ? model.kept(tensor) : std::nullopt) return *kept;
  return first.keep_f32 ? DType::kF32 : model.dtype;
}

Tensor narrowed(const Tensor& values, DType dtype) {
  Tensor out(values.shape(), dtype);
  if (dtype == DType::kI8) {
    std::transform(values.f32(), values.f32() + values.count(), static_cast<int8_t*>(out.raw()),
                   [](float sign) { return static_cast<int8_t>(sign); });
  } else {
    narrow(values.f32(), dtype, out.raw(), static_cast<size_t>(values.count()));
  }
  return out;
}

TensorSource place_in(const std::vector<TensorSource>& sources, const HoldsTensor& holds) {
  if (!holds) return sources.front();
  const auto found =
      std::find_if(sources.begin(), sources.end(), [&](const TensorSource& source) { return holds(source.file_name); });
  return found == sources.end() ? sources.front() : *found;
}

const char* torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

}  // namespace

void tell_progress(const WriteProgress& progress, double share, const std::string& out) {
  if (progress && !progress(share)) fail(ErrorKind::kCancelled, "{}: interrupted, nothing was written", out);
}

std::vector<FileTensor> file_tensors(const ModelConfig& config, const TensorNames& names,
                                     const std::vector<ParamRecord>& records, const HoldsTensor& holds) {
  std::vector<FileTensor> out;
  std::unordered_map<std::string, size_t> known;
  for (size_t i = 0; i < records.size(); ++i) {
    const ParamRecord& record = records[i];
    const TensorSource place = place_in(names.sources(config, record.name), holds);
    const auto [it, fresh] = known.emplace(place.file_name, out.size());
    if (fresh) out.push_back({place.file_name, record.shape, {}, place.permuted});
    FileTensor& tensor = out[it->second];
    tensor.records.push_back(i);
    if (place.permuted) tensor.shape = place.permuted->stored;
    if (place.stacked > 0) {
      const size_t slice = (tensor.records.size() - 1) / static_cast<size_t>(place.stacked) + 1;  // matrices of it
      tensor.shape = Shape{place.stacked, static_cast<int64_t>(slice) * record.shape[0], record.shape[1]};
    } else if (!fresh) {
      std::vector<int64_t> dims;
      for (int d = 0; d < record.shape.rank(); ++d) dims.push_back(tensor.shape[d]);
      dims[0] += record.shape[0];
      tensor.shape = Shape(dims);
    }
  }
  return out;
}

Tensor file_values(const FileTensor& tensor, const std::vector<ParamRecord>& records, const ParamValues& values_of) {
  Tensor values(tensor.shape, DType::kF32);
  int64_t offset = 0;
  for (const size_t i : tensor.records) {
    values_of(records[i], values.f32() + offset);
    offset += records[i].shape.count();
  }
  if (tensor.permuted) {
    const auto* in_block = static_cast<const std::byte*>(values.raw());
    const auto bytes_of = [](int64_t count) { return static_cast<size_t>(count) * sizeof(float); };
    const std::vector<std::byte> ordered = to_file_order(*tensor.permuted, in_block, bytes_of);
    std::copy(ordered.begin(), ordered.end(), static_cast<std::byte*>(values.raw()));
  }
  return values;
}

ModelWriter::ModelWriter(const std::string& out, const std::vector<formats::TensorSpec>& specs,
                         const formats::Metadata& metadata)
    : folder_(out), tensors_(folder_.file("model.safetensors"), specs, metadata) {}

void ModelWriter::write_config(const Json& config) { write_text_file(file("config.json"), config.dump(2) + "\n"); }

void ModelWriter::write_beside(const BesideFiles& files) {
  for (const auto& [name, text] : files) write_text_file(file(name), text);
}

void ModelWriter::finish() {
  tensors_.finish();
  folder_.keep();
}

void write_model(const ModelValues& model, const std::string& out, const BesideFiles& beside,
                 const WriteProgress& progress, const std::function<void(ModelWriter&)>& more) {
  const TensorNames& names = find_family(model.config.model_type, model.where).names;
  const std::vector<FileTensor> tensors = file_tensors(model.config, names, model.records);
  std::vector<formats::TensorSpec> specs;
  size_t largest_bytes = 0;  // the most bytes of a tensor, its values and its written form together
  for (const FileTensor& tensor : tensors) {
    specs.push_back({tensor.name, written_as(model, tensor), tensor.shape});
    const auto count = static_cast<size_t>(tensor.shape.count());
    largest_bytes = std::max(largest_bytes, count * (sizeof(float) + dtype_size(specs.back().dtype)));
  }
  check_memory(largest_bytes, model.where);
  ModelWriter writer(out, specs);
  for (size_t i = 0; i < tensors.size(); ++i) {
    tell_progress(progress, static_cast<double>(i) / static_cast<double>(tensors.size()), out);
    writer.write(tensors[i].name, narrowed(file_values(tensors[i], model.records, model.values), specs[i].dtype));
  }
  tell_progress(progress, 1, out);
  Json config = model.config.source;
  set_dtype(config, model.dtype);
  writer.write_config(config);
  writer.write_beside(beside);
  if (more) more(writer);
  writer.finish();
}

void set_dtype(Json& config, DType dtype) {
  config["torch_dtype"] = torch_name(dtype);
  if (config.contains("dtype")) config["dtype"] = torch_name(dtype);
}

}  // namespace carousel::model
