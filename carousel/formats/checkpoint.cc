// SPDX-License-Identifier: Apache-2.0
#include "carousel/formats/checkpoint.h"

#include <filesystem>
#include <set>

#include "carousel/core/error.h"
#include "carousel/core/json.h"
#include "carousel/formats/torch_zip.h"

namespace carousel::formats {
namespace {

constexpr size_t kMaxIndexBytes = 100'000'000;
constexpr int kMaxDepth = 8;
constexpr const char* kSingle = "model.safetensors";
constexpr const char* kTorch = "model.ckpt";
constexpr const char* kIndex = "model.safetensors.index.json";

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
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
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    checkpoint.add(path);
    return checkpoint;
  }
  const std::string folder = path.ends_with('/') ? path : path + "/";
  if (exists(folder + kSingle)) {
    checkpoint.add(folder + kSingle);
  } else if (exists(folder + kIndex)) {
    checkpoint.open_indexed(folder, folder + kIndex);
  } else if (exists(folder + kTorch)) {
    checkpoint.add(folder + kTorch);
  } else {
    for (int i = 0; exists(fmt::format("{}model_{}.safetensors", folder, i)); ++i) {
      checkpoint.add(fmt::format("{}model_{}.safetensors", folder, i));
    }
  }
  if (checkpoint.files_.empty()) {
    fail(ErrorKind::kInput, "{}: no weights here, expected {}, {}, model_0.safetensors or {}", path, kSingle, kIndex,
         kTorch);
  }
  return checkpoint;
}

void Checkpoint::open_indexed(const std::string& folder, const std::string& index_path) {
  const auto shards = parse_index(read_text_file(index_path, kMaxIndexBytes), index_path);
  std::set<std::string> names;
  for (const auto& [tensor, shard] : shards) names.insert(shard);
  for (const std::string& shard : names) {
    if (!exists(folder + shard)) {
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
    files_.push_back({std::move(file.entries), {}});
    if (!file.hyper_parameters.is_null()) files_.back().metadata["hyper_parameters"] = file.hyper_parameters.dump();
  } else {
    const SafetensorsFile file = SafetensorsFile::open(path);
    files_.push_back({file.entries(), file.metadata()});
  }
  paths_.push_back(path);
  const std::vector<TensorEntry>& entries = files_.back().entries;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto [it, fresh] = by_name_.emplace(entries[i].name, std::pair{files_.size() - 1, i});
    if (!fresh) {
      fail(ErrorKind::kInput, "{}: \"{}\" is also in {}", path, entries[i].name, paths_[it->second.first]);
    }
  }
}

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
