// SPDX-License-Identifier: Apache-2.0
#include "carousel/model/stored_params.h"

#include "carousel/model/gguf/gguf.h"

namespace carousel::model {

StoredParams::StoredParams(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where)
    : config_(config), checkpoint_(checkpoint), names_(spelling_of(config, checkpoint, where)) {}

StoredParams::Found StoredParams::find(const std::string& name, bool weights_only) const {
  if (checkpoint_ == nullptr) return {};
  for (const TensorSource& source : names_.sources(config_, name)) {
    const formats::TensorEntry* entry = checkpoint_->find(source.file_name);
    if (entry != nullptr && (!weights_only || entry->is_weight())) return {entry, source.permuted.has_value()};
  }
  return {};
}

}  // namespace carousel::model
