// SPDX-License-Identifier: Apache-2.0
// Config -> a freshly initialised model on disk.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/checkpoint.h"
#include "carousel/formats/new_file.h"
#include "carousel/model/families/family.h"
#include "carousel/model/load.h"
#include "carousel/model/params.h"
#include "carousel/model/profile.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

// The parameters one tensor of the file holds, in order: several where projections are stored fused.
struct FileTensor {
  formats::TensorSpec spec;
  std::vector<ParamRecord> records;
  std::optional<Permutation> permuted;
};

std::vector<FileTensor> file_tensors(const ModelConfig& config, std::vector<ParamRecord> records, DType dtype,
                                     const Numerics& numerics) {
  for (ParamRecord& record : records) record.init = drawn_by(numerics, record.name, record.init);
  const TensorNames& names = find_family(config.model_type, "init").names;
  std::vector<FileTensor> out;
  for (const ParamRecord& record : records) {
    const TensorSource source = names.sources(config, record.name).front();
    const std::string& name = source.file_name;
    const auto same = std::find_if(out.begin(), out.end(), [&](const FileTensor& t) { return t.spec.name == name; });
    if (same == out.end()) {
      const Shape shape = source.permuted ? source.permuted->stored : record.shape;
      out.push_back({{name, dtype, shape}, {record}, source.permuted});
      continue;
    }
    std::vector<int64_t> dims;
    for (int i = 0; i < record.shape.rank(); ++i) dims.push_back(same->spec.shape[i]);
    dims[0] += record.shape[0];
    same->spec.shape = Shape(dims);
    same->records.push_back(record);
  }
  for (FileTensor& tensor : out) {
    if (tensor.records.front().init.keep_f32) tensor.spec.dtype = DType::kF32;
    if (tensor.records.front().init.kind == Init::Kind::kMask) tensor.spec.dtype = DType::kI8;
  }
  return out;
}

const char* torch_name(DType dtype) {
  return dtype == DType::kF32 ? "float32" : dtype == DType::kF16 ? "float16" : "bfloat16";
}

}  // namespace

void write_initialised(const std::string& config_path, uint64_t seed, DType dtype, const std::string& out,
                       const std::function<bool(double)>& progress, const Numerics& numerics) {
  const ModelPath place = resolve(config_path);
  if (place.config.ends_with(".gguf")) fail(ErrorKind::kInput, "{}: a GGUF file, expected a config.json", place.config);
  const ModelConfig config = read_model_config(place, nullptr);
  ParamList list;
  declare_params(config, list, place.config);

  formats::NewFolder folder(out);
  std::vector<formats::TensorSpec> specs;
  const std::vector<FileTensor> tensors = file_tensors(config, list.records(), dtype, numerics);
  size_t largest_bytes = 0;  // of a tensor, as drawn and as written
  for (const FileTensor& tensor : tensors) {
    specs.push_back(tensor.spec);
    const auto count = static_cast<size_t>(tensor.spec.shape.count());
    largest_bytes = std::max(largest_bytes, count * (sizeof(float) + dtype_size(tensor.spec.dtype)));
  }
  check_memory(largest_bytes, place.config);
  formats::SafetensorsWriter writer(folder.file("model.safetensors"), specs, {{"format", "pt"}});
  double done = 0;
  for (const FileTensor& tensor : tensors) {
    if (progress && !progress(done / static_cast<double>(tensors.size()))) {
      fail(ErrorKind::kCancelled, "{}: interrupted, nothing was written", out);
    }
    done += 1;
    Tensor values(tensor.spec.shape, DType::kF32);
    int64_t offset = 0;
    for (const ParamRecord& record : tensor.records) {
      draw_param(record, seed, values.f32() + offset);
      offset += record.shape.count();
    }
    if (tensor.permuted) {
      const auto* drawn = static_cast<const std::byte*>(values.raw());
      const std::vector<std::byte> ordered = to_file_order(
          *tensor.permuted, drawn, [](int64_t count) { return static_cast<size_t>(count) * sizeof(float); });
      std::copy(ordered.begin(), ordered.end(), static_cast<std::byte*>(values.raw()));
    }
    Tensor narrowed(tensor.spec.shape, tensor.spec.dtype);
    if (tensor.spec.dtype == DType::kI8) {
      std::transform(values.f32(), values.f32() + values.count(), static_cast<int8_t*>(narrowed.raw()),
                     [](float sign) { return static_cast<int8_t>(sign); });
    } else {
      narrow(values.f32(), tensor.spec.dtype, narrowed.raw(), static_cast<size_t>(values.count()));
    }
    writer.write(tensor.spec.name, narrowed);
  }
  writer.finish();

  Json source = config.source;
  source["torch_dtype"] = torch_name(dtype);
  write_text_file(folder.file("config.json"), source.dump(2) + "\n");
  const std::string tokenizer = place.folder + "/tokenizer.json";
  std::error_code error;
  if (file_exists(tokenizer)) fs::copy_file(tokenizer, folder.file("tokenizer.json"), error);
  if (error) fail(ErrorKind::kIo, "{}: cannot copy to {}: {}", tokenizer, out, error.message());
  folder.keep();
}

}  // namespace carousel::model
