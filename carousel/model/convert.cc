// SPDX-License-Identifier: Apache-2.0
// A model from GGUF to a folder, or from a folder to GGUF: every tensor is read, brought to its new order and type
// piece by piece, and written. What is written in which type is chosen first, as a list of targets.
#include "carousel/model/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <unordered_map>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/model/chat_template.h"
#include "carousel/model/end_tokens.h"
#include "carousel/model/gguf/gguf.h"
#include "carousel/model/gguf/rope.h"
#include "carousel/model/load.h"
#include "carousel/model/recoding.h"
#include "carousel/text/unicode.h"

namespace carousel::model {
namespace {

namespace fs = std::filesystem;
using formats::GgmlType;

constexpr int64_t kPiece = int64_t{1} << 20;  // elements held at a time
constexpr size_t kMaxText = size_t{256} << 20;

// A model's files and where each of its parameters lies in them.
struct Source {
  ModelPath place;
  formats::Checkpoint checkpoint;
  ModelConfig config;
  std::vector<ParamRecord> records;
  std::vector<ParamPlace> places;  // the place of each record
  ThreadPool* pool = nullptr;
};

Source open_source(const std::string& path, const Stream& stream) {
  ModelPath place = resolve(path);
  if (place.weights.empty()) fail(ErrorKind::kInput, "{}: no weights to convert", path);
  Source source{place, formats::Checkpoint::open(place.weights), {}, {}, {}, stream.pool};
  source.config = read_model_config(source.place, &source.checkpoint);
  ParamList list;
  declare_params(source.config, list, place.config);
  source.records = list.records();
  CheckpointParams params(stream, source.checkpoint, spelling_of(source.config, &source.checkpoint, place.config),
                          source.config, place.weights);
  for (const ParamRecord& record : source.records) {
    source.places.push_back(params.find(record.name, record.shape, record.init.kind == Init::Kind::kMask));
  }
  params.finish();
  return source;
}

// One tensor to be written, and its type there.
struct Target : FileTensor {
  const GgmlType* type = nullptr;
};

// [D, 1, K] without its middle.
Shape squeezed(const Shape& shape) {
  Shape out;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] != 1 || i == 0 || i + 1 == shape.rank()) out.push_back(shape[i]);
  }
  return out;
}

std::vector<Target> targets_of(const Source& source, const TensorNames& names, bool squeeze) {
  std::vector<Target> out;
  for (FileTensor& tensor : file_tensors(source.config, names, source.records)) {
    if (squeeze && !tensor.permuted) tensor.shape = squeezed(tensor.shape);
    out.push_back({std::move(tensor), nullptr});
  }
  return out;
}

// Puts the values of one parameter, in the block's order and in `type`, in pieces of whole rows.
void each_piece(const Source& source, size_t i, const GgmlType& type,
                const std::function<void(const std::byte*, size_t)>& put) {
  const ParamRecord& record = source.records[i];
  const ParamPlace& place = source.places[i];
  const formats::TensorEntry& entry = *place.entry;
  const std::vector<std::byte> reordered = place.permuted ? place.reordered_bytes() : std::vector<std::byte>();
  const std::byte* const values = place.permuted ? reordered.data() : place.bytes;
  const int64_t count = record.shape.count(), row = record.shape[-1];
  const int64_t piece = std::max<int64_t>(1, kPiece / row) * row;
  const Recoding recoding{entry, type, source.place.weights, *source.pool};
  std::vector<std::byte> encoded(recoding.keeps() ? 0 : *type.bytes_of(std::min(piece, count)));
  for (int64_t first = 0; first < count; first += piece) {
    const int64_t part = std::min(piece, count - first);
    const std::byte* const stored = values + entry.bytes_of(first);
    if (recoding.keeps()) {
      recoding.check(stored, part);
      put(stored, entry.bytes_of(part));
    } else {
      recoding.recode(stored, part, encoded.data());
      put(encoded.data(), *type.bytes_of(part));
    }
    if (entry.file && !place.permuted) entry.file->release(stored, entry.bytes_of(part));
  }
}

// Puts all bytes of a target in pieces; in one piece where the file has another order than the block.
void each_piece(const Source& source, const Target& target, const std::function<void(const std::byte*, size_t)>& put) {
  for (const size_t i : target.records) {
    if (!target.permuted) {
      each_piece(source, i, *target.type, put);
      continue;
    }
    std::vector<std::byte> whole;
    each_piece(source, i, *target.type,
               [&](const std::byte* bytes, size_t size) { whole.insert(whole.end(), bytes, bytes + size); });
    const std::vector<std::byte> ordered =
        to_file_order(*target.permuted, whole.data(), [&](int64_t count) { return *target.type->bytes_of(count); });
    put(ordered.data(), ordered.size());
  }
}

void step(const WriteProgress& progress, size_t done, size_t all, const std::string& out) {
  tell_progress(progress, static_cast<double>(done) / static_cast<double>(std::max<size_t>(1, all)), out);
}

// Whether GGUF gets a tensor in F32: vectors, convolutions and routers are small, and other readers know them in F32
// only.
bool widened_in_gguf(const ParamRecord& record) {
  return record.shape.rank() != 2 || record.init.keep_f32 || record.name.ends_with(".router.weight");
}

const GgmlType* choose(const Source& source, const Target& target, bool keeps_all, const TypeOf& type) {
  const ParamRecord& record = source.records[target.records.front()];
  const formats::TensorEntry& entry = *source.places[target.records.front()].entry;
  if (record.init.kind == Init::Kind::kMask) return type_of(entry);
  if (!keeps_all && widened_in_gguf(record)) return formats::ggml_type_of(DType::kF32);
  const GgmlType* chosen = type && record.matrix ? type(record, entry) : nullptr;
  const bool whole = chosen != nullptr && target.shape[-1] % chosen->block == 0;
  return whole ? chosen : type_of(entry);
}

// The number from which llama.cpp's tools name a file's kind: that of the type which most values have.
uint32_t file_type(const std::vector<Target>& targets) {
  static constexpr std::pair<const char*, uint32_t> kKinds[] = {
      {"F32", 0},   {"F16", 1},   {"Q4_0", 2},  {"Q4_1", 3},  {"Q8_0", 7},    {"Q5_0", 8},    {"Q5_1", 9}, {"Q2_K", 10},
      {"Q3_K", 12}, {"Q4_K", 15}, {"Q5_K", 17}, {"Q6_K", 18}, {"IQ4_NL", 25}, {"IQ4_XS", 30}, {"BF16", 32}};
  std::unordered_map<const GgmlType*, int64_t> counts;
  for (const Target& target : targets) counts[target.type] += target.shape.count();
  const auto most =
      std::max_element(counts.begin(), counts.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  for (const auto& [name, number] : kKinds) {
    if (most != counts.end() && std::string(name) == most->first->name) return number;
  }
  return 0;
}

std::string base_name(const Source& source) {
  const fs::path path = fs::absolute(source.place.folder).lexically_normal();
  const std::string name = path.filename().empty() ? path.parent_path().filename().string() : path.filename().string();
  return name.empty() ? "model" : text::replace_invalid(name);
}

// The model's tokenizer.json, if it can be used; empty: there is none.
std::string tokenizer_text(const Source& source) {
  const formats::GgufMetadata* const gguf = source.checkpoint.gguf();
  const std::string path = gguf != nullptr ? source.place.weights : source.place.folder + "/tokenizer.json";
  if (gguf == nullptr && !file_exists(path)) return "";
  const std::string text = gguf != nullptr ? gguf_tokenizer(*gguf, path) : read_text_file(path, kMaxText);
  if (!text.empty() || gguf == nullptr) text::Tokenizer::from_json(text, path);
  return text;
}

// The config that the keys are made from. It has the ids of generation_config.json as well, since a GGUF file has one
// list of the tokens that end a text.
ModelConfig config_for_keys(const Source& source) {
  ModelConfig config = source.config;
  if (config.kind != ModelKind::kLanguage || source.checkpoint.gguf() != nullptr) return config;
  config.eos_token_ids = stated_end_ids(config, source.place.folder);
  if (config.eos_token_ids != source.config.eos_token_ids) config.source["eos_token_id"] = config.eos_token_ids;
  return config;
}

formats::GgufKeys all_keys(const Source& source, const std::vector<Target>& targets) {
  const ModelConfig config = config_for_keys(source);
  formats::GgufKeys keys = gguf_keys(config, source.records);
  keys.emplace_back("general.name", base_name(source));
  keys.emplace_back("general.file_type", file_type(targets));
  const auto in_blocks = [](const Target& target) { return target.type->block > 1; };
  if (std::any_of(targets.begin(), targets.end(), in_blocks)) {
    keys.emplace_back("general.quantization_version", uint32_t{2});
  }
  if (config.kind == ModelKind::kLanguage) {
    const formats::GgufKeys more = tokenizer_keys(tokenizer_text(source), config.vocab_size, config.source,
                                                  source.place.folder + "/tokenizer.json");
    keys.insert(keys.end(), more.begin(), more.end());
    if (const std::string chat = read_chat_template(source.place); !chat.empty())
      keys.emplace_back("tokenizer.chat_template", chat);
  }
  for (const DType narrow : {DType::kBF16, DType::kF16}) {
    std::vector<std::string> names;
    for (const Target& target : targets) {
      const DType from = source.places[target.records.front()].entry->dtype;
      if (target.type->plain == DType::kF32 && from == narrow) names.push_back(target.name);
    }
    if (!names.empty()) keys.emplace_back(kGgufWidened[narrow == DType::kBF16 ? 0 : 1], names);
  }
  return keys;
}

// What a tensor of a folder is written in: its own dtype, the one it had before GGUF widened it, or `blocks_as`.
DType folder_dtype(const Source& source, const Target& target, DType blocks_as) {
  const formats::TensorEntry& entry = *source.places[target.records.front()].entry;
  if (entry.ggml != nullptr) return blocks_as;
  for (const DType narrow : {DType::kBF16, DType::kF16}) {
    const formats::GgufMetadata* gguf = source.checkpoint.gguf();
    const formats::GgufArray* names =
        gguf == nullptr ? nullptr : gguf->array(kGgufWidened[narrow == DType::kBF16 ? 0 : 1]);
    if (names == nullptr || entry.dtype != DType::kF32) continue;
    for (const std::string_view name : names->strings()) {
      if (name == entry.name) return narrow;
    }
  }
  return entry.dtype;
}

}  // namespace

void write_gguf(const std::string& model, const std::string& out, const Stream& stream, const TypeOf& type,
                const WriteProgress& progress) {
  const Source source = open_source(model, stream);
  for (const std::string& path : source.checkpoint.paths()) {
    std::error_code unknown;
    if (std::filesystem::equivalent(path, out, unknown))
      fail(ErrorKind::kIo, "{}: a file of the model that is read, expected another name to write", out);
  }
  const GgufSide& side = gguf_side(source.config);
  std::vector<Target> targets = targets_of(source, side.names, !side.whole);
  std::vector<formats::GgufTensorSpec> specs;
  for (Target& target : targets) {
    target.type = choose(source, target, side.whole, type);
    specs.push_back({target.name, target.type, target.shape});
  }
  const std::vector<float> rope = side.whole ? std::vector<float>() : rope_divisors(source.config);
  if (!rope.empty()) {
    specs.push_back({kRopeTensor, formats::ggml_type_of(DType::kF32), Shape{static_cast<int64_t>(rope.size())}});
  }
  formats::GgufWriter writer(out, all_keys(source, targets), specs);
  for (size_t i = 0; i < targets.size(); ++i) {
    step(progress, i, targets.size(), out);
    each_piece(source, targets[i],
               [&](const std::byte* bytes, size_t size) { writer.write(targets[i].name, bytes, size); });
  }
  if (!rope.empty()) writer.write(kRopeTensor, rope.data(), rope.size() * sizeof(float));
  step(progress, targets.size(), targets.size(), out);
  writer.finish();
}

namespace {

// Writes what stands beside a language model: a folder's own files, or what the keys of a GGUF file say.
void write_beside(const Source& source, ModelWriter& writer) {
  const std::string text = tokenizer_text(source);  // one that cannot be used is refused
  if (source.checkpoint.gguf() == nullptr) return writer.write_beside(read_beside(source.place.folder));
  if (!text.empty()) write_text_file(writer.file("tokenizer.json"), text);
  if (const std::string chat = read_chat_template(source.place); !chat.empty())
    write_text_file(writer.file("chat_template.jinja"), chat);
}

// Writes a folder of targets whose types are set.
void write_targets(const Source& source, const std::vector<Target>& targets, const std::string& out,
                   std::optional<DType> plain, const WriteProgress& progress) {
  std::vector<formats::TensorSpec> specs;
  for (const Target& target : targets) specs.push_back({target.name, dtype_of(*target.type), target.shape});
  ModelWriter writer(out, specs);
  for (size_t i = 0; i < targets.size(); ++i) {
    step(progress, i, targets.size(), out);
    Tensor values(specs[i].shape, specs[i].dtype);
    auto* next = static_cast<std::byte*>(values.raw());
    each_piece(source, targets[i], [&](const std::byte* bytes, size_t size) { next = std::copy_n(bytes, size, next); });
    writer.write(specs[i].name, values);
  }
  step(progress, targets.size(), targets.size(), out);
  Json config = source.config.source;
  if (plain && source.checkpoint.gguf() != nullptr && source.places.front().entry->ggml != nullptr) {
    set_dtype(config, *plain);
  }
  writer.write_config(config);
  if (source.config.kind == ModelKind::kLanguage) write_beside(source, writer);
  writer.finish();
}

std::vector<Target> folder_targets(const Source& source) {
  return targets_of(source, find_family(source.config.model_type, source.place.config).names, false);
}

// The reason why a target cannot be written in blocks of this type; empty: it can be.
std::string why_no_blocks(const Target& target, const GgmlType& type) {
  if (target.permuted) return "it is stored in another order than it is used in";
  if (target.shape.rank() > 0 && target.shape[-1] % type.block == 0) return "";
  return fmt::format("its rows are no whole blocks of {}", type.block);
}

// The block type that the values of a target have in the source; Q8, into which they can be encoded, where they have
// several.
DType block_type_of(const Source& source, const Target& target) {
  const DType first = held_dtype(*source.places[target.records.front()].entry);
  const auto other = [&](size_t i) { return held_dtype(*source.places[i].entry) != first; };
  return std::any_of(target.records.begin(), target.records.end(), other) ? DType::kQ8 : first;
}

// The type that a target of a folder has where none is chosen: its own, or F32 for blocks that it cannot be written in.
const GgmlType* own_type(const Source& source, const Target& target) {
  const DType blocks = block_type_of(source, target);
  const bool whole = is_block(blocks) && why_no_blocks(target, *type_of(blocks)).empty();
  return type_of(folder_dtype(source, target, whole ? blocks : DType::kF32));
}

}  // namespace

void write_folder(const std::string& model, const std::string& out, const Stream& stream, DType blocks_as,
                  const WriteProgress& progress) {
  const Source source = open_source(model, stream);
  std::vector<Target> targets = folder_targets(source);
  for (Target& target : targets) target.type = type_of(folder_dtype(source, target, blocks_as));
  write_targets(source, targets, out, blocks_as, progress);
}

std::vector<KeptTensor> write_folder(const std::string& model, const std::string& out, const Stream& stream,
                                     const TypeOf& type, const WriteProgress& progress) {
  const Source source = open_source(model, stream);
  std::vector<Target> targets = folder_targets(source);
  std::vector<KeptTensor> kept;
  for (Target& target : targets) {
    target.type = own_type(source, target);
    const auto chosen_for = [&](size_t i) {
      const ParamRecord& record = source.records[i];
      return record.matrix ? type(record, *source.places[i].entry) : nullptr;
    };
    const GgmlType* const chosen = chosen_for(target.records.front());
    const auto other = [&](size_t i) { return chosen_for(i) != chosen; };
    const bool agreed = std::none_of(target.records.begin(), target.records.end(), other);
    if (agreed && chosen == nullptr) continue;
    const std::string reason = chosen == nullptr || chosen->block == 1 ? "" : why_no_blocks(target, *chosen);
    if (agreed && reason.empty()) {
      target.type = chosen;
    } else {
      kept.push_back({fmt::format("\"{}\" stays {}: {}", target.name, dtype_name(dtype_of(*target.type)),
                                  agreed ? reason : "it holds matrices of different types"),
                      {}});
      for (const size_t i : target.records) kept.back().parameters.push_back(source.records[i].name);
    }
  }
  write_targets(source, targets, out, {}, progress);
  return kept;
}

}  // namespace carousel::model
