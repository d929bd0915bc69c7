// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/quantise.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <map>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/formats/new_file.h"
#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/load.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

// Asks where every matrix of a model is stored, and what type it is to have there.
class TypeSource : public ParamSource {
 public:
  struct Choice {
    std::optional<DType> dtype;
    bool agreed = true;  // all matrices of the tensor
    bool permuted = false;
    int64_t cols = 0;
  };
  TypeSource(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
             const std::string& where)
      : config_(config), checkpoint_(checkpoint), types_(types), names_(spelling_of(config, &checkpoint, where)) {}

  Weight matrix(const std::string& name, int64_t rows, int64_t cols, Weight::Layout layout, const Init& init) override {
    const std::optional<DType> dtype = written_dtype(types_, name, layout, init);
    for (const TensorSource& source : names_.sources(config_, name)) {
      if (checkpoint_.find(source.file_name) == nullptr) continue;
      const auto [place, fresh] = choices.try_emplace(source.file_name, Choice{dtype, true, false, cols});
      Choice& choice = place->second;
      if (!fresh && choice.dtype != dtype) choice.agreed = false;
      if (source.permuted) choice.permuted = true;
      break;
    }
    return Weight(rows, cols, DType::kF32, layout, Device::kMeta);
  }
  Tensor tensor(const std::string&, const Shape& shape, const Init&) override {
    return Tensor(shape, DType::kF32, Device::kMeta);
  }
  std::map<std::string, Choice> choices;  // by file name

 private:
  const ModelConfig& config_;
  const formats::Checkpoint& checkpoint_;
  const WeightTypes& types_;
  TensorNames names_;
};

std::string why_kept(const TypeSource::Choice& choice, const formats::TensorEntry& entry) {
  if (!choice.agreed) return "it holds matrices of different types";
  if (!is_block(*choice.dtype)) return "";
  if (choice.permuted) return "it is stored in another order than it is used in";
  const auto block = static_cast<int64_t>(kBlockValues);
  if (choice.cols % block != 0 || entry.shape.rank() == 0 || entry.shape[-1] % block != 0) {
    return fmt::format("its rows of {} are no whole blocks of {}", choice.cols, block);
  }
  return "";
}

void copy_beside(const ModelPath& place, const ModelConfig& config, formats::NewFolder& folder) {
  if (place.config == place.weights) write_text_file(folder.file("config.json"), config.source.dump(2) + "\n");
  std::vector<std::string> files;
  if (place.config != place.weights) files.push_back(place.config);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}) {
    files.push_back(place.folder + "/" + name);
  }
  for (const std::string& file : files) {
    if (!file_exists(file)) continue;
    std::error_code error;
    const std::string copy = folder.file(fs::path(file).filename().string());
    fs::copy_file(file, copy, error);
    if (error) fail(ErrorKind::kIo, "{}: cannot copy to {}: {}", file, copy, error.message());
    fs::permissions(copy, fs::perms::owner_write, fs::perm_options::add, error);
  }
}

}  // namespace

std::optional<DType> written_dtype(const WeightTypes& types, const std::string& name, Weight::Layout layout,
                                   const Init& init) {
  const std::optional<DType> wanted = types.of(name, layout, init);
  if (!wanted || !init.mask) return wanted;
  const Weight weight(*init.mask, *wanted, Device::kMeta, true);  // not as this machine, but as any may hold it
  return weight.sparse() != nullptr ? weight.sparse()->dtype() : *wanted;
}

TypeOf type_choice(const WeightTypes& types, bool tied) {
  return [types, tied](const ParamRecord& record, const formats::TensorEntry&) -> const formats::GgmlType* {
    const bool shared = tied && record.name == "embeddings.weight";
    const auto layout = shared ? Weight::Layout::kPanels : Weight::Layout::kRows;
    const std::optional<DType> dtype = written_dtype(types, record.name, layout, record.init);
    return dtype ? formats::ggml_type_of(*dtype) : nullptr;
  };
}

QuantisePlan plan_quantised(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
                            const std::string& where) {
  TypeSource source(config, checkpoint, types, where);
  declare_params(config, source, where);
  QuantisePlan plan;
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    DType dtype = entry->dtype;
    const auto found = source.choices.find(entry->name);
    if (found != source.choices.end() && (found->second.dtype || !found->second.agreed)) {
      const std::string reason = why_kept(found->second, *entry);
      if (reason.empty()) {
        dtype = *found->second.dtype;
      } else {
        plan.kept.push_back(fmt::format("\"{}\" stays {}: {}", entry->name, dtype_name(dtype), reason));
      }
    }
    plan.items.push_back({entry, dtype});
    plan.bytes_before += entry->size_bytes;
    plan.bytes_after += dtype_bytes(dtype, static_cast<size_t>(entry->shape.count()));
  }
  return plan;
}

Tensor quantised(const QuantisePlan::Item& item, const Stream& stream, const std::string& where) {
  const formats::TensorEntry& entry = *item.entry;
  if (item.dtype == entry.dtype) return entry.view();
  Tensor out(entry.shape, item.dtype);
  const auto cols = static_cast<size_t>(entry.shape.rank() == 0 ? 1 : entry.shape[-1]);
  if (cols == 0) return out;
  const int64_t rows = entry.shape.count() / static_cast<int64_t>(cols);
  const size_t from = dtype_bytes(entry.dtype, cols), to = dtype_bytes(item.dtype, cols);
  std::atomic<bool> beyond{false};
  parallel_for(*stream.pool, rows, [&](int64_t row) {
    std::vector<float> values(cols);
    widen(entry.bytes + static_cast<size_t>(row) * from, entry.dtype, values.data(), cols);
    if (!fits(values.data(), cols, item.dtype)) beyond.store(true);
    narrow(values.data(), item.dtype, static_cast<std::byte*>(out.raw()) + static_cast<size_t>(row) * to, cols);
  });
  if (beyond.load()) {
    fail(ErrorKind::kInput, "{}: \"{}\" holds a value that is not finite, or beyond what {} can hold", where,
         entry.name, dtype_name(item.dtype));
  }
  return out;
}

QuantiseResult write_quantised(const std::string& path, const WeightTypes& types, const Stream& stream,
                               const std::string& out, const std::function<bool(double)>& progress) {
  const ModelPath place = resolve(path);
  if (place.weights.empty()) fail(ErrorKind::kInput, "{}: no weights to quantise", path);
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(place.weights);
  const ModelConfig config = read_model_config(place, &checkpoint);
  if (checkpoint.gguf() != nullptr) {
    const TypeOf type = type_choice(types, config.tie_word_embeddings);
    const std::vector<std::string> kept = write_folder(path, out, stream, type, progress);
    return {checkpoint.size_bytes(), formats::Checkpoint::open(out).size_bytes(), kept};
  }
  const QuantisePlan plan = plan_quantised(config, checkpoint, types, place.config);
  formats::NewFolder folder(out);
  copy_beside(place, config, folder);
  std::vector<formats::TensorSpec> specs;
  for (const QuantisePlan::Item& item : plan.items) specs.push_back({item.entry->name, item.dtype, item.entry->shape});
  formats::Metadata metadata = checkpoint.metadata();
  metadata.erase(formats::kBlocksKey);
  metadata.try_emplace("format", "pt");
  formats::SafetensorsWriter writer(folder.file("model.safetensors"), specs, metadata);
  size_t done_bytes = 0;
  for (const QuantisePlan::Item& item : plan.items) {
    const double share = static_cast<double>(done_bytes) / static_cast<double>(std::max<size_t>(1, plan.bytes_before));
    if (progress && !progress(share)) fail(ErrorKind::kCancelled, "{}: interrupted, nothing was written", out);
    writer.write(item.entry->name, quantised(item, stream, place.weights));
    item.entry->release();
    done_bytes += item.entry->size_bytes;
  }
  writer.finish();
  folder.keep();
  return {plan.bytes_before, plan.bytes_after, plan.kept};
}

}  // namespace carousel::model
