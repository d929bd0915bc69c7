// SPDX-License-Identifier: Apache-2.0
// The writing half of safetensors.h: a header laid out from the specs, then each tensor at its own place.
#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {
namespace {

constexpr size_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kAlignment = 8;

size_t alignment(DType dtype) { return is_block(dtype) ? 1 : dtype_size(dtype); }

// The value of kBlocksKey for these tensors; "" where none is of a block type.
std::string block_types(const std::vector<TensorSpec>& specs) {
  Json types = Json::object();
  for (const TensorSpec& spec : specs) {
    if (is_block(spec.dtype)) types[spec.name] = dtype_name(spec.dtype);
  }
  return types.empty() ? "" : types.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::string& path, const std::vector<TensorSpec>& specs,
                                     const Metadata& metadata)
    : path_(path) {
  const std::string header = lay_out(specs, metadata);
  file_ = std::make_unique<NewFile>(path);
  const auto length = static_cast<uint64_t>(header.size());
  file_->put(&length, sizeof length, 0);
  file_->put(header.data(), header.size(), sizeof length);
}

SafetensorsWriter::~SafetensorsWriter() = default;

// Places the tensors, widest dtype first so that every one is aligned, and returns the padded header.
std::string SafetensorsWriter::lay_out(const std::vector<TensorSpec>& specs, const Metadata& metadata) {
  std::vector<TensorSpec> order = specs;
  std::stable_sort(order.begin(), order.end(),
                   [](const TensorSpec& a, const TensorSpec& b) { return alignment(a.dtype) > alignment(b.dtype); });
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  Metadata all = metadata;
  if (const std::string blocks = block_types(specs); !blocks.empty()) all[kBlocksKey] = blocks;
  if (!all.empty()) header["__metadata__"] = all;
  size_t end = 0;
  // ordered_json looks a key up by walking all of them: repeated names are caught by places_, and entries appended.
  auto& members = header.get_ref<nlohmann::ordered_json::object_t&>();
  for (const TensorSpec& spec : order) {
    const size_t size_bytes = dtype_bytes(spec.dtype, static_cast<size_t>(spec.shape.count()));
    if (__builtin_add_overflow(end, size_bytes, &end)) {
      fail(ErrorKind::kInput, "{}: \"{}\" of {} overflows the file's size", path_, spec.name, spec.shape.str());
    }
    if (spec.name == "__metadata__" || !places_.emplace(spec.name, Place{spec, end - size_bytes, size_bytes}).second) {
      fail(ErrorKind::kInput, "{}: tensor name \"{}\" is reserved or used twice", path_, spec.name);
    }
    std::vector<int64_t> dims;
    for (int i = 0; i < spec.shape.rank(); ++i) dims.push_back(spec.shape[i]);
    const bool blocks = is_block(spec.dtype);
    if (blocks && (dims.empty() || dims.back() % static_cast<int64_t>(block_values(spec.dtype)) != 0)) {
      fail(ErrorKind::kInput, "{}: \"{}\" {} {} has rows that are no whole blocks", path_, spec.name,
           dtype_name(spec.dtype), spec.shape.str());
    }
    if (blocks) dims.back() = static_cast<int64_t>(dtype_bytes(spec.dtype, static_cast<size_t>(dims.back())));
    nlohmann::ordered_json entry{{"dtype", blocks ? "U8" : dtype_name(spec.dtype)}, {"shape", dims}};
    entry["data_offsets"] = {end - size_bytes, end};
    static_cast<std::vector<std::pair<const std::string, nlohmann::ordered_json>>&>(members).emplace_back(
        spec.name, std::move(entry));
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::kInput, "{}: a tensor name or metadata is not valid UTF-8", path_);
  }
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  if (text.size() > kMaxHeaderBytes) {
    fail(ErrorKind::kInput, "{}: header of {} bytes, expected at most {}", path_, text.size(), kMaxHeaderBytes);
  }
  for (auto& [name, place] : places_) place.offset_bytes += sizeof(uint64_t) + text.size();
  return text;
}

void SafetensorsWriter::write(const std::string& name, const Tensor& tensor) {
  const auto it = places_.find(name);
  if (it == places_.end()) fail(ErrorKind::kInput, "{}: \"{}\" was not announced", path_, name);
  Place& place = it->second;
  if (!(tensor.shape() == place.spec.shape) || tensor.dtype() != place.spec.dtype) {
    fail(ErrorKind::kShape, "{}: \"{}\" is {} {}, expected {} {}", path_, name, dtype_name(tensor.dtype()),
         tensor.shape().str(), dtype_name(place.spec.dtype), place.spec.shape.str());
  }
  if (place.written) fail(ErrorKind::kInput, "{}: \"{}\" is written twice", path_, name);
  if (place.size_bytes > 0 && tensor.raw() == nullptr) {
    fail(ErrorKind::kInput, "{}: \"{}\" holds no values to write", path_, name);
  }
  file_->put(tensor.raw(), place.size_bytes, place.offset_bytes);
  place.written = true;
}

void SafetensorsWriter::finish() {
  for (const auto& [name, place] : places_) {
    if (!place.written) fail(ErrorKind::kInput, "{}: \"{}\" was not written", path_, name);
  }
  file_->finish();
}

void write_safetensors(const std::string& path, const NamedTensors& tensors, const Metadata& metadata) {
  std::vector<TensorSpec> specs;
  for (const NamedTensor& named : tensors) specs.push_back({named.name, named.tensor.dtype(), named.tensor.shape()});
  SafetensorsWriter writer(path, specs, metadata);
  for (const NamedTensor& named : tensors) writer.write(named.name, named.tensor);
  writer.finish();
}

}  // namespace carousel::formats
