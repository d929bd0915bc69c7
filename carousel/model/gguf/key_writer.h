// SPDX-License-Identifier: Apache-2.0
// The inverse of key_reader.h: a model's GGUF keys, from its blocks' options and the shapes of its parameters.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "carousel/formats/gguf.h"
#include "carousel/model/config.h"
#include "carousel/model/params.h"

namespace carousel::model {

/// Keys under the name of one architecture.
class KeyWriter {
 public:
  KeyWriter(const ModelConfig& config, const std::vector<ParamRecord>& records, std::string arch)
      : config_(config), records_(records), arch_(std::move(arch)) {
    keys.emplace_back("general.architecture", arch_);
    keys.emplace_back("general.type", std::string("model"));
  }

  void put(const char* key, formats::GgufValue value) { keys.emplace_back(arch_ + "." + key, std::move(value)); }
  void count(const char* key, int64_t value) { put(key, static_cast<uint32_t>(value)); }
  void real(const char* key, double value) { put(key, static_cast<float>(value)); }

  /// Rows of a parameter, by its canonical name. Throws Error(kInput) when the model has none.
  int64_t rows(const std::string& parameter) const;
  /// The options of the first sublayer with this block; empty when there is none.
  Json options(const std::string& block) const;
  const ModelConfig& config() const { return config_; }

  /// The sizes of every language model.
  void common();
  /// Heads and rotation, without the kv heads.
  void attention();

  formats::GgufKeys keys;

 private:
  const ModelConfig& config_;
  const std::vector<ParamRecord>& records_;
  std::string arch_;
};

}  // namespace carousel::model
