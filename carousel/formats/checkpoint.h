// SPDX-License-Identifier: Apache-2.0
// The weights of one model, however they are spread over files: one .safetensors, or a folder with model.safetensors,
// with model.safetensors.index.json and its shards, with all of model-00001-of-0000N.safetensors, or with
// model_0.safetensors, model_1.safetensors and so on; a file of torch.save (model.ckpt) or a GGUF file, which may be
// the first of several parts, told by its first bytes.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "carousel/formats/gguf.h"
#include "carousel/formats/safetensors.h"

namespace carousel::formats {

class Checkpoint {
 public:
  /// Throws Error(kIo) or Error(kInput): no weights in the folder; an index that names files outside it, a shard that
  /// is missing or lacks a tensor; a tensor in two files; a malformed file.
  static Checkpoint open(const std::string& path);

  const TensorEntry* find(std::string_view name) const;  // nullptr: no such tensor
  std::vector<const TensorEntry*> entries() const;       // file after file, in the order of their bytes
  const std::vector<std::string>& paths() const { return paths_; }
  /// The metadata of the first file. A Lightning checkpoint has its settings there, as JSON text, under
  /// "hyper_parameters".
  const Metadata& metadata() const { return files_.front().metadata; }
  /// The keys of a GGUF checkpoint's first file; nullptr: it is no GGUF checkpoint.
  const GgufMetadata* gguf() const { return gguf_.get(); }
  size_t size_bytes() const;  // of all tensors together

 private:
  struct File {
    std::vector<TensorEntry> entries;
    Metadata metadata;
  };
  void add(const std::string& path);
  void open_indexed(const std::string& folder, const std::string& index_path);
  bool open_shards(const std::string& path, const std::string& folder);
  void open_gguf(const std::string& path);
  void add_entries(const std::string& path, File file);

  std::vector<std::string> paths_;
  std::vector<File> files_;
  std::shared_ptr<const GgufMetadata> gguf_;
  std::unordered_map<std::string, std::pair<size_t, size_t>> by_name_;  // file, entry
};

/// "model-00002-of-00007.gguf" taken apart: the text before the numbers, the shard's number from 1, and the number of
/// shards.
struct ShardName {
  std::string stem;
  int64_t part = 1, parts = 1;
};
/// Nothing for a name that is not of this form.
std::optional<ShardName> split_shard_name(const std::string& path, std::string_view ending);
std::optional<ShardName> split_gguf_name(const std::string& path);

/// The shard of every tensor by the text of an index file. Every shard is a plain file name: no folder, no "..".
std::unordered_map<std::string, std::string> parse_index(std::string_view text, const std::string& where);

}  // namespace carousel::formats
