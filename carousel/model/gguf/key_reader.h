// SPDX-License-Identifier: Apache-2.0
// The keys of a GGUF model, read with checks, and what families share of their meaning: sizes, tokens that end texts,
// heads and rotation. What a key is called in config.json is the family's (families/).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/config.h"

namespace carousel::model {

/// The keys of one architecture, read with their names in messages, and what the tensors say.
class KeyReader {
 public:
  static constexpr int64_t kMaxWidth = int64_t{1} << 30;

  KeyReader(const formats::Checkpoint& checkpoint, const std::string& where, std::string arch)
      : checkpoint_(checkpoint), fields_(checkpoint.gguf()->values, where), arch_(std::move(arch)) {}

  int64_t integer(const char* key, int64_t min, int64_t max, std::optional<int64_t> fallback = {}) {
    return fields_.integer(name(key).c_str(), min, max, fallback);
  }
  double number(const char* key, double min, double max, std::optional<double> fallback = {}) {
    return fields_.number(name(key).c_str(), min, max, fallback);
  }
  bool boolean(const char* key, bool fallback) { return fields_.boolean(name(key).c_str(), fallback); }
  std::string string(const char* key, const std::string& fallback) {
    return fields_.string(name(key).c_str(), fallback);
  }
  bool has(const char* key) const { return fields_.has(name(key).c_str()); }
  const Json* raw(const char* key) { return fields_.raw(name(key).c_str()); }
  std::vector<int64_t> integers(const char* key, int64_t min, int64_t max) {
    return fields_.integers(name(key).c_str(), min, max, kMaxLayers);
  }
  std::string name(const char* key) const { return arch_ + "." + key; }
  const std::string& where() const { return fields_.where(); }
  Fields& all() { return fields_; }
  const formats::TensorEntry* tensor(const std::string& tensor) const { return checkpoint_.find(tensor); }

  /// Throws Error(kInput): a key of this architecture that changes the result in a way not implemented.
  void refuse_unsupported();

  /// A width that the rows of `tensor` [..., rows, cols] say too: converters are known to get the key wrong, so the
  /// tensor decides, with a warning.
  int64_t width(const char* key, const std::string& tensor_name);
  std::vector<std::string> warnings;

  /// Keys that are neither the format's own nor known here.
  std::vector<std::string> unknown() const;

 private:
  const formats::Checkpoint& checkpoint_;
  Fields fields_;
  std::string arch_;
};

/// The keys of every language model to those of transformers' configs: vocabulary, width, layers, special tokens.
void read_common_keys(KeyReader& keys, Json& out);

/// Heads and rotation, of a config that has the common keys. Returns the kv heads of every layer, where 0 is a layer
/// without attention.
std::vector<int64_t> read_attention_keys(KeyReader& keys, std::optional<double> default_theta, Json& out);

}  // namespace carousel::model
