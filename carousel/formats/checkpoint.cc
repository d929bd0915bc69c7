// SPDX-License-Identifier: Apache-2.0
// Finds the files of one model's weights and joins their tensors.
#include "carousel/formats/checkpoint.h"

#include <algorithm>
#include <functional>
#include <set>

#include "carousel/core/error.h"
#include "carousel/core/files.h"
#include "carousel/core/json.h"
#include "carousel/formats/torch_zip.h"

namespace carousel::formats {
namespace {

constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr int kMaxDepth = 8;
constexpr int64_t kMaxGgufParts = 10'000;
constexpr const char* kSingle = "model.safetensors";
constexpr const char* kTorch = "model.ckpt";
constexpr const char* kIndex = "model.safetensors.index.json";

constexpr const char* kSafetensors = ".safetensors";

std::vector<std::string> files_with_ending(const std::string& folder, std::string_view ending) {
  std::vector<std::string> names = names_in(folder);
  std::erase_if(names, [&](const std::string& name) { return !name.ends_with(ending); });
  return names;
}

bool plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

}  // namespace

std::unordered_map<std::string, std::string> parse_index(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where, {kMaxIndexBytes, kMaxDepth});
  if (!root.is_object()) fail(ErrorKind::kInput, "{}: got {}, expected an object", where, brief(root));
  const auto map = root.find("weight_map");
  if (map == root.end()) fail(ErrorKind::kInput, "{}: \"weight_map\" is missing", where);
  if (!map->is_object() || map->empty()) {
    fail(ErrorKind::kInput, "{}: \"weight_map\" is {}, expected an object of tensor names and files", where,
         brief(*map));
  }
  std::unordered_map<std::string, std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string() || !plain_name(shard.get_ref<const std::string&>())) {
      fail(ErrorKind::kInput, "{}: \"{}\" is in {}, expected the name of a file in the same folder", where, name,
           brief(shard));
    }
    shards[name] = shard.get<std::string>();
  }
  return shards;
}

Checkpoint Checkpoint::open(const std::string& path) {
  Checkpoint checkpoint;
  if (!is_folder(path)) {
    if (is_gguf(path)) {
      checkpoint.open_gguf(path);
    } else {
      checkpoint.add(path);
    }
    return checkpoint;
  }
  const std::string folder = path.ends_with('/') ? path : path + "/";
  if (file_exists(folder + kSingle)) {
    checkpoint.add(folder + kSingle);
  } else if (file_exists(folder + kIndex)) {
    checkpoint.open_indexed(folder, folder + kIndex);
  } else if (file_exists(folder + kTorch)) {
    checkpoint.add(folder + kTorch);
  } else if (!checkpoint.open_shards(path, folder)) {
    for (int i = 0; file_exists(fmt::format("{}model_{}.safetensors", folder, i)); ++i) {
      checkpoint.add(fmt::format("{}model_{}.safetensors", folder, i));
    }
  }
  if (checkpoint.files_.empty()) {
    const std::vector<std::string> others = files_with_ending(path, kSafetensors);
    fail(ErrorKind::kInput,
         "{}: no weights here, expected {}, {}, model-00001-of-00001.safetensors, model_0.safetensors or {}{}", path,
         kSingle, kIndex, kTorch,
         others.empty() ? "" : fmt::format("; {} has another name, which can be given as the path", others.front()));
  }
  return checkpoint;
}

// Opens shards without an index, whose names say how many there are. False: the folder has none.
bool Checkpoint::open_shards(const std::string& path, const std::string& folder) {
  std::vector<ShardName> shards;
  for (const std::string& name : files_with_ending(path, kSafetensors)) {
    if (const std::optional<ShardName> shard = split_shard_name(name, kSafetensors)) shards.push_back(*shard);
  }
  const auto usual = [](const ShardName& shard) { return shard.stem == "model"; };
  if (std::any_of(shards.begin(), shards.end(), usual)) std::erase_if(shards, std::not_fn(usual));
  if (shards.empty()) return false;
  const ShardName& first = shards.front();
  for (const ShardName& shard : shards) {
    if (shard.stem == first.stem && shard.parts == first.parts) continue;
    fail(ErrorKind::kInput, "{}: shards of several models, {} of {} and {} of {}, expected those of one", path,
         first.stem, first.parts, shard.stem, shard.parts);
  }
  for (int64_t part = 1; part <= first.parts; ++part) {
    const std::string shard = fmt::format("{}{}-{:05}-of-{:05}{}", folder, first.stem, part, first.parts, kSafetensors);
    if (!file_exists(shard)) {
      fail(ErrorKind::kInput, "{}: shard {} of {} is missing, expected it beside the others", shard, part, first.parts);
    }
    add(shard);
  }
  return true;
}

void Checkpoint::open_indexed(const std::string& folder, const std::string& index_path) {
  const auto shards = parse_index(read_text_file(index_path, kMaxIndexBytes), index_path);
  std::set<std::string> names;
  for (const auto& [tensor, shard] : shards) names.insert(shard);
  for (const std::string& shard : names) {
    if (!file_exists(folder + shard)) {
      fail(ErrorKind::kInput, "{}: shard \"{}\" is not in the folder", index_path, shard);
    }
    add(folder + shard);
  }
  std::set<std::string> tensors;  // sorted, so that the first one missing is the same on every run
  for (const auto& [tensor, shard] : shards) tensors.insert(tensor);
  for (const std::string& tensor : tensors) {
    const std::string& shard = shards.at(tensor);
    const auto it = by_name_.find(tensor);
    if (it == by_name_.end() || paths_[it->second.first] != folder + shard) {
      fail(ErrorKind::kInput, "{}: \"{}\" is not in \"{}\", where the index puts it", index_path, tensor, shard);
    }
  }
}

void Checkpoint::add(const std::string& path) {
  if (is_torch_zip(path)) {
    TorchFile file = open_torch_zip(path);
    Metadata metadata;
    if (!file.hyper_parameters.is_null()) metadata["hyper_parameters"] = file.hyper_parameters.dump();
    return add_entries(path, {std::move(file.entries), std::move(metadata)});
  }
  const SafetensorsFile file = SafetensorsFile::open(path);
  add_entries(path, {file.entries(), file.metadata()});
}

void Checkpoint::add_entries(const std::string& path, File file) {
  files_.push_back(std::move(file));
  paths_.push_back(path);
  const std::vector<TensorEntry>& entries = files_.back().entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto [it, fresh] = by_name_.emplace(entries[i].name, std::pair{files_.size() - 1, i});
    if (!fresh) {
      fail(ErrorKind::kInput, "{}: \"{}\" is also in {}", path, entries[i].name, paths_[it->second.first]);
    }
  }
}

// A split model says so in every part: "split.no" from 0, "split.count", and how many tensors all have together.
void Checkpoint::open_gguf(const std::string& path) {
  const auto integer = [](const GgufFile& file, const std::string& where, const char* key, int64_t max) {
    Fields fields(file.metadata().values, where);
    return fields.integer(key, 0, max, 0);
  };
  const GgufFile first = GgufFile::open(path);
  const int64_t parts = std::max<int64_t>(1, integer(first, path, "split.count", kMaxGgufParts));
  std::optional<ShardName> name = split_gguf_name(path);
  if (parts > 1 && (!name || name->parts != parts)) {
    fail(ErrorKind::kInput, "{}: one of {} parts, expected a name that ends in -00001-of-{:05}.gguf", path, parts,
         parts);
  }
  if (parts == 1) name = ShardName{};
  for (int64_t part = 1; part <= parts; ++part) {
    const std::string at = parts == 1 ? path : fmt::format("{}-{:05}-of-{:05}.gguf", name->stem, part, parts);
    if (!file_exists(at))
      fail(ErrorKind::kInput, "{}: part {} of {} is missing, expected it beside {}", at, part, parts, path);
    const GgufFile file = parts == 1 ? first : GgufFile::open(at);
    if (parts > 1 && integer(file, at, "split.no", kMaxGgufParts) != part - 1) {
      fail(ErrorKind::kInput, "{}: \"split.no\" is {}, expected {}", at, integer(file, at, "split.no", kMaxGgufParts),
           part - 1);
    }
    if (parts > 1 && integer(file, at, "split.count", kMaxGgufParts) != parts) {
      fail(ErrorKind::kInput, "{}: \"split.count\" is not {}, as {} has it", at, parts, path);
    }
    if (part == 1) gguf_ = std::make_shared<GgufMetadata>(file.metadata());
    add_entries(at, {file.entries(), {}});
  }
  Fields fields(gguf_->values, paths_.front());
  const auto found = static_cast<int64_t>(by_name_.size());
  const int64_t announced = fields.integer("split.tensors.count", 0, INT64_MAX, found);
  if (parts > 1 && announced != found) {
    fail(ErrorKind::kInput, "{}: \"split.tensors.count\" is {}, but the {} parts hold {} tensors", paths_.front(),
         announced, parts, found);
  }
}

std::optional<ShardName> split_shard_name(const std::string& path, std::string_view ending) {
  constexpr size_t kNumbers = 15;  // "-00001-of-00002"
  if (path.size() < kNumbers + ending.size() || !path.ends_with(ending)) return {};
  const size_t begin = path.size() - ending.size() - kNumbers;
  const std::string tail = path.substr(begin, kNumbers);
  const std::string digits = tail.substr(1, 5) + tail.substr(10, 5);
  const bool fits =
      tail[0] == '-' && tail.substr(6, 4) == "-of-" && digits.find_first_not_of("0123456789") == tail.npos;
  if (!fits) return {};
  const ShardName part{path.substr(0, begin), std::stoll(digits.substr(0, 5)), std::stoll(digits.substr(5))};
  return part.part >= 1 && part.part <= part.parts ? std::optional(part) : std::nullopt;
}

std::optional<ShardName> split_gguf_name(const std::string& path) { return split_shard_name(path, ".gguf"); }

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto it = by_name_.find(std::string(name));
  return it == by_name_.end() ? nullptr : &files_[it->second.first].entries[it->second.second];
}

std::vector<const TensorEntry*> Checkpoint::entries() const {
  std::vector<const TensorEntry*> all;
  for (const File& file : files_) {
    for (const TensorEntry& entry : file.entries) all.push_back(&entry);
  }
  return all;
}

size_t Checkpoint::size_bytes() const {
  size_t total = 0;
  for (const TensorEntry* entry : entries()) total += entry->size_bytes;
  return total;
}

}  // namespace carousel::formats
