// SPDX-License-Identifier: Apache-2.0
// Which tensors of a checkpoint change their type, and the folder with the changed ones.
#include "carousel/model/quantise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <tuple>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/cost.h"
#include "carousel/model/load.h"
#include "carousel/model/model_writer.h"
#include "carousel/model/recoding.h"
#include "carousel/model/stored_params.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;

// The type to write for the matrices that one tensor of the file holds.
struct Choice {
  std::optional<DType> dtype;  // the type asked for; fitting_dtype says what rows of `cols` get
  bool agreed = true;          // all of them have this type
  bool permuted = false;
  int64_t cols = 0;
  std::vector<std::string> parameters;  // the matrices, by canonical names
};

// The choices, by the tensors' names in the file.
std::map<std::string, Choice> choose(const ModelConfig& config, const formats::Checkpoint& checkpoint,
                                     const WeightTypes& types, const std::string& where) {
  std::map<std::string, Choice> choices;
  const StoredParams stored(config, &checkpoint, where);
  ShapeSource source([&](const ParamRecord& record) {
    const StoredParams::Found found = record.matrix ? stored.find(record.name) : StoredParams::Found();
    if (found.entry == nullptr) return;
    const std::optional<DType> dtype = written_dtype(types, record.name, record.layout, record.init);
    const Choice first{dtype, true, false, record.shape[1], {}};
    const auto [place, fresh] = choices.try_emplace(found.entry->name, first);
    Choice& choice = place->second;
    if (!fresh && choice.dtype != dtype) choice.agreed = false;
    if (found.permuted) choice.permuted = true;
    choice.parameters.push_back(record.name);
  });
  declare_params(config, source, where);
  return choices;
}

std::string why_kept(const Choice& choice, const formats::TensorEntry& entry) {
  if (!choice.agreed) return "it holds matrices of different types";
  if (!is_block(*choice.dtype)) return "";
  if (choice.permuted) return "it is stored in another order than it is used in";
  const std::optional<DType> fitting = fitting_dtype(*choice.dtype, choice.cols);
  if (!fitting || entry.shape.rank() == 0 || fitting_dtype(*choice.dtype, entry.shape[-1]) != fitting) {
    return fmt::format("its rows of {} are no whole blocks of {}", choice.cols, kBlockValues);
  }
  return "";
}

// The lines of the tensors that keep their type, and one for each number of columns whose other matrices get another
// type than the one asked for.
std::vector<std::string> report(const ModelConfig& config, const WeightTypes& types,
                                const std::vector<KeptTensor>& kept, const std::string& where) {
  struct Group {
    int64_t count = 0;
    std::string first;
  };
  std::vector<std::string> lines;
  std::set<std::string> unchanged;
  for (const KeptTensor& tensor : kept) {
    lines.push_back(tensor.line);
    unchanged.insert(tensor.parameters.begin(), tensor.parameters.end());
  }
  std::map<std::tuple<DType, DType, int64_t>, Group> groups;
  ShapeSource source([&](const ParamRecord& record) {
    if (!record.matrix || unchanged.count(record.name) > 0) return;
    const std::optional<DType> wanted = written_dtype(types, record.name, record.layout, record.init);
    const std::optional<DType> fitting = wanted ? fitting_dtype(*wanted, record.shape[1]) : std::nullopt;
    if (!fitting || fitting == wanted) return;
    Group& group = groups[{*wanted, *fitting, record.shape[1]}];
    if (group.count++ == 0) group.first = record.name;
  });
  declare_params(config, source, where);
  for (const auto& [types_and_cols, group] : groups) {
    const auto& [wanted, fitting, cols] = types_and_cols;
    lines.push_back(fmt::format("{} matri{} in {} and not {}: rows of {} are no whole blocks of {} (the first is {})",
                                group.count, group.count == 1 ? "x is" : "ces are", dtype_name(fitting),
                                dtype_name(wanted), cols, block_values(wanted), group.first));
  }
  return lines;
}

// Copies a config that is a file of its own as it is, whatever its form; writes out the config of a model in one file.
void write_config(const ModelPath& place, const ModelConfig& config, ModelWriter& writer) {
  if (place.config == place.weights) return writer.write_config(config.source);
  std::error_code error;
  const std::string copy = writer.file(fs::path(place.config).filename().string());
  fs::copy_file(place.config, copy, error);
  if (error) fail(ErrorKind::kIo, "{}: cannot copy to {}: {}", place.config, copy, error.message());
  fs::permissions(copy, fs::perms::owner_write, fs::perm_options::add, error);
}

}  // namespace

std::optional<DType> written_dtype(const WeightTypes& types, const std::string& name, Weight::Layout layout,
                                   const Init& init) {
  const std::optional<DType> wanted = types.of(name, layout, init);
  if (!wanted || !init.mask) return wanted;
  const Weight weight(*init.mask, *wanted, Memory::meta(), true);  // not as this machine, but as any may hold it
  const SparsePanels* const sparse = weight.as<SparsePanels>();
  return sparse != nullptr ? sparse->dtype() : *wanted;
}

TypeOf type_choice(const WeightTypes& types, bool tied) {
  return [types, tied](const ParamRecord& record, const formats::TensorEntry&) -> const formats::GgmlType* {
    const bool shared = tied && record.name == "embeddings.weight";
    const auto layout = shared ? Weight::Layout::kPanels : Weight::Layout::kRows;
    const std::optional<DType> dtype = written_dtype(types, record.name, layout, record.init);
    // Rows that no blocks fit keep their type: the caller sees it by their number of columns.
    return dtype ? formats::ggml_type_of(fitting_dtype(*dtype, record.shape[-1]).value_or(*dtype)) : nullptr;
  };
}

QuantisePlan plan_quantised(const ModelConfig& config, const formats::Checkpoint& checkpoint, const WeightTypes& types,
                            const std::string& where) {
  const std::map<std::string, Choice> choices = choose(config, checkpoint, types, where);
  QuantisePlan plan;
  for (const formats::TensorEntry* entry : checkpoint.entries()) {
    DType dtype = entry->dtype;
    const auto found = choices.find(entry->name);
    if (found != choices.end() && (found->second.dtype || !found->second.agreed)) {
      const std::string reason = why_kept(found->second, *entry);
      if (reason.empty()) {
        dtype = *fitting_dtype(*found->second.dtype, found->second.cols);
      } else {
        plan.kept.push_back(
            {fmt::format("\"{}\" stays {}: {}", entry->name, dtype_name(dtype), reason), found->second.parameters});
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
  const Recoding recoding{entry, *type_of(item.dtype), where, *stream.pool};
  recoding.recode(entry.bytes, entry.shape.count(), static_cast<std::byte*>(out.raw()));
  return out;
}

QuantiseResult write_quantised_gguf(const std::string& path, const WeightTypes& asked, const Stream& stream,
                                    const std::string& out, const std::function<bool(double)>& progress) {
  const ModelFiles files = open_model_files(path);
  const WeightTypes types = with_mix(asked, files.config, files.place.config);
  write_gguf(path, out, stream, type_choice(types, files.config.tie_word_embeddings), progress);
  return {files.checkpoint ? files.checkpoint->size_bytes() : 0, formats::Checkpoint::open(out).size_bytes(),
          report(files.config, types, {}, files.place.config)};
}

QuantiseResult write_quantised(const std::string& path, const WeightTypes& asked, const Stream& stream,
                               const std::string& out, const std::function<bool(double)>& progress) {
  const ModelPath place = resolve(path);
  if (place.weights.empty()) fail(ErrorKind::kInput, "{}: no weights to quantise", path);
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(place.weights);
  const ModelConfig config = read_model_config(place, &checkpoint);
  const WeightTypes types = with_mix(asked, config, place.config);
  if (checkpoint.gguf() != nullptr) {
    const TypeOf type = type_choice(types, config.tie_word_embeddings);
    const std::vector<KeptTensor> kept = write_folder(path, out, stream, type, progress);
    return {checkpoint.size_bytes(), formats::Checkpoint::open(out).size_bytes(),
            report(config, types, kept, place.config)};
  }
  const QuantisePlan plan = plan_quantised(config, checkpoint, types, place.config);
  std::vector<formats::TensorSpec> specs;
  for (const QuantisePlan::Item& item : plan.items) specs.push_back({item.entry->name, item.dtype, item.entry->shape});
  formats::Metadata metadata = checkpoint.metadata();
  metadata.erase(formats::kBlocksKey);
  metadata.try_emplace("format", "pt");
  ModelWriter writer(out, specs, metadata);
  write_config(place, config, writer);
  writer.write_beside(read_beside(place.folder));
  size_t done_bytes = 0;
  for (const QuantisePlan::Item& item : plan.items) {
    const double share = static_cast<double>(done_bytes) / static_cast<double>(std::max<size_t>(1, plan.bytes_before));
    tell_progress(progress, share, out);
    writer.write(item.entry->name, quantised(item, stream, place.weights));
    item.entry->release();
    done_bytes += item.entry->size_bytes;
  }
  tell_progress(progress, 1, out);
  writer.finish();
  return {plan.bytes_before, plan.bytes_after, report(config, types, plan.kept, place.config)};
}

}  // namespace carousel::model
