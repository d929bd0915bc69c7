// SPDX-License-Identifier: Apache-2.0
// Sums of a base and an adapter, parameter by parameter or file tensor by file tensor.
#include "carousel/model/merged.h"

#include <algorithm>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/finite.h"
#include "carousel/ops/linear/low_rank.h"

namespace carousel::model {
namespace {

/// Adds rows first .. first + w.dim(0) of the module's scale B A to w, which lie on the host.
void add_rows(const Stream& stream, const AdapterFiles& files, const Adapter& adapter, const AdapterModule& module,
              int64_t first, const Tensor& w) {
  const Tensor a = files.read(module.a_name(), Shape{adapter.rank, module.cols});
  const Tensor b = files.read(module.b_name(), Shape{module.rows, adapter.rank});
  Stream host = stream;  // sums are computed where the files are read, whatever device the model is for
  host.memory = &Memory::host();
  ops::add_low_rank(host, {a, b.rows(first, first + w.dim(0)), adapter.scale()}, w);
}

void check_finite(const std::string& name, const Tensor& values) {
  const std::optional<int64_t> at = first_not_finite(values.raw(), values.dtype(), values.count());
  if (!at) return;
  fail(ErrorKind::kInput, "\"{}\" with the adapter is beyond what {} can hold at element {}", name,
       dtype_name(values.dtype()), *at);
}

const AdapterModule* find_module(const Adapter& adapter, const std::string& tensor) {
  const auto found = std::find_if(adapter.modules.begin(), adapter.modules.end(),
                                  [&](const AdapterModule& module) { return module.name + ".weight" == tensor; });
  return found == adapter.modules.end() ? nullptr : &*found;
}

void check_type(const formats::TensorEntry& entry, const std::string& where) {
  if (is_float(entry.dtype)) return;
  fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected F32, F16 or BF16 for an adapter", where, entry.name,
       entry.type_name());
}

/// The base's files must name a module as adapters do, else nothing would be added to it.
void check_names(const formats::Checkpoint& checkpoint, const Adapter& adapter, const std::string& where) {
  for (const AdapterModule& module : adapter.modules) {
    const formats::TensorEntry* const entry = checkpoint.find(module.name + ".weight");
    if (entry == nullptr) {
      fail(ErrorKind::kInput, "{}: \"{}.weight\" is missing, which the adapter changes", where, module.name);
    }
    check_type(*entry, where);
    if (!(entry->shape == Shape{module.rows, module.cols})) {
      fail(ErrorKind::kInput, "{}: \"{}\" is {}, expected {}", where, entry->name, entry->shape.str(),
           Shape{module.rows, module.cols}.str());
    }
  }
}

Tensor narrowed(const Tensor& values, DType dtype) {
  if (dtype == DType::kF32) return values;
  Tensor out(values.shape(), dtype);
  narrow(values.f32(), dtype, out.raw(), static_cast<size_t>(values.count()));
  return out;
}

}  // namespace

MergedParams::MergedParams(ParamSource& source, const Stream& stream, const AdapterFiles& files,
                           const ModelConfig& config, const std::vector<ParamRecord>& records)
    : source_(source), stream_(stream), files_(files), adapter_(files.bind(config, records)) {
  for (size_t m = 0; m < adapter_.modules.size(); ++m) {
    int64_t first = 0;
    for (const size_t i : adapter_.modules[m].records) {
      places_[records[i].name] = {m, first};
      first += records[i].shape[0];
    }
  }
}

Weight MergedParams::matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout,
                            const Init& init) {
  Weight base = source_.matrix(name, rows, cols, layout, init);
  const auto place = places_.find(name);
  if (place == places_.end()) return base;
  if (!is_float(base.dtype())) {
    fail(ErrorKind::kInput, "{}: held in {}, expected f32, f16 or bf16 for an adapter", name, dtype_name(base.dtype()));
  }
  const Tensor sum(Shape{rows, cols}, DType::kF32);
  base.read_rows(0, rows, sum.f32());
  add_rows(stream_, files_, adapter_, adapter_.modules[place->second.module], place->second.first, sum);
  check_finite(name, sum);
  Weight out(rows, cols, DType::kF32, layout, *stream_.memory);
  out.write_rows(stream_, 0, rows, sum.raw());
  return out;
}

void check_base_types(const formats::Checkpoint& checkpoint, const ModelConfig& config, const TensorNames& names,
                      const std::vector<ParamRecord>& records, const Adapter& adapter, const std::string& where) {
  for (const AdapterModule& module : adapter.modules) {
    for (const size_t i : module.records) {
      for (const TensorSource& source : names.sources(config, records[i].name)) {
        const formats::TensorEntry* const entry = checkpoint.find(source.file_name);
        if (entry != nullptr) check_type(*entry, where);
      }
    }
  }
}

Tensor merged_values(const formats::TensorEntry& entry, const AdapterFiles& files, const Adapter& adapter,
                     const Stream& stream) {
  const Tensor values = entry.load().to_f32();
  const AdapterModule* const module = find_module(adapter, entry.name);
  if (module != nullptr) add_rows(stream, files, adapter, *module, 0, values);
  return values;
}

void write_merged(const std::string& base, const std::string& adapter, const std::string& out, const Stream& stream,
                  std::optional<DType> dtype, const WriteProgress& progress) {
  const ModelPath place = resolve(base);
  if (place.weights.empty() || !place.config.ends_with(".json")) {
    fail(ErrorKind::kInput, "{}: expected a model folder with config.json and .safetensors", base);
  }
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(place.weights);
  const ModelConfig config = read_model_config(place, &checkpoint);
  ParamList list;
  declare_params(config, list, place.config);
  const AdapterFiles files(adapter);
  const Adapter bound = files.bind(config, list.records());
  check_names(checkpoint, bound, place.weights);
  const std::vector<const formats::TensorEntry*> entries = checkpoint.entries();
  std::vector<formats::TensorSpec> specs;
  for (const formats::TensorEntry* entry : entries) {
    const bool sum = find_module(bound, entry->name) != nullptr;
    const DType own = sum ? DType::kF32 : entry->dtype;
    specs.push_back({entry->name, dtype && is_float(entry->dtype) ? *dtype : own, entry->shape});
  }
  ModelWriter writer(out, specs);
  for (size_t i = 0; i < entries.size(); ++i) {
    tell_progress(progress, static_cast<double>(i) / static_cast<double>(entries.size()), out);
    const formats::TensorEntry& entry = *entries[i];
    const bool changes = specs[i].dtype != entry.dtype || find_module(bound, entry.name) != nullptr;
    const Tensor values = changes ? narrowed(merged_values(entry, files, bound, stream), specs[i].dtype) : entry.load();
    if (changes) check_finite(entry.name, values);
    writer.write(entry.name, values);
    entry.release();
  }
  tell_progress(progress, 1, out);
  Json source = config.source;
  set_dtype(source, dtype.value_or(DType::kF32));
  writer.write_config(source);
  writer.write_beside(read_beside(place.folder));
  writer.finish();
}

}  // namespace carousel::model
