// SPDX-License-Identifier: Apache-2.0
// Compares the two tensors of a file, and says which head is used.
#include "carousel/model/tied_head.h"

#include <fmt/format.h>

#include <cstring>

#include "carousel/model/families/family.h"
#include "carousel/model/gguf/gguf.h"

namespace carousel::model {
namespace {

/// The tensor that a parameter is, under the first of its names that the file has; null: it has none.
const formats::TensorEntry* entry_of(const formats::Checkpoint& checkpoint, const ModelConfig& config,
                                     const TensorNames& names, const char* parameter) {
  for (const TensorSource& source : names.sources(config, parameter)) {
    if (const formats::TensorEntry* entry = checkpoint.find(source.file_name)) return entry;
  }
  return nullptr;
}

bool are_equal(const formats::TensorEntry& a, const formats::TensorEntry& b) {
  return a.dtype == b.dtype && a.size_bytes == b.size_bytes && std::memcmp(a.bytes, b.bytes, a.size_bytes) == 0;
}

}  // namespace

void untie_other_head(const formats::Checkpoint& checkpoint, const ModelPath& place, ModelConfig& config) {
  if (!config.tie_word_embeddings || !find_family(config.model_type, place.config).unties_other_heads) return;
  const TensorNames names = spelling_of(config, &checkpoint, place.config);
  const formats::TensorEntry* const table = entry_of(checkpoint, config, names, "embeddings.weight");
  const formats::TensorEntry* const head = entry_of(checkpoint, config, names, "lm_head.weight");
  if (table == nullptr || head == nullptr || are_equal(*table, *head)) return;
  config.tie_word_embeddings = false;
  config.source["tie_word_embeddings"] = false;
  if (config.source.contains("tie_embedding")) config.source["tie_embedding"] = false;  // LFM2's older name for it
  config.warnings.push_back(
      fmt::format("{}: the head is tied to the embeddings, but \"{}\" differs from \"{}\"; both are "
                  "used, as in transformers",
                  place.weights, head->name, table->name));
}

}  // namespace carousel::model
