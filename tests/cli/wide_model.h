// SPDX-License-Identifier: Apache-2.0
// Models on bytes whose matrices K-quants fit, for the tests of commands.
#pragma once

#include "tests/cli/tiny_model.h"

namespace carousel::cli {

/// Rows of whole blocks of 256, and of 288, which are none.
constexpr const char* kWideLlama = R"({"model_type": "llama", "vocab_size": 256, "hidden_size": 256,
    "intermediate_size": 288, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "tie_word_embeddings": false})";
constexpr const char* kWideXlstm = R"({"model_type": "xlstm", "vocab_size": 256, "hidden_size": 256,
    "num_hidden_layers": 3, "num_heads": 4, "ffn_proj_factor": 1.0, "tie_word_embeddings": true})";

/// The type of every tensor.
inline std::map<std::string, std::string> types_of(const std::string& path) {
  std::map<std::string, std::string> types;
  const formats::Checkpoint checkpoint = formats::Checkpoint::open(path);
  for (const formats::TensorEntry* entry : checkpoint.entries()) types[entry->name] = entry->type_name();
  return types;
}

}  // namespace carousel::cli
