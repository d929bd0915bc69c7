// SPDX-License-Identifier: Apache-2.0
// Finds the tensor of a checkpoint that holds a parameter, by the spelling of the model's family. Only headers are
// read.
#pragma once

#include <string>

#include "carousel/formats/checkpoint.h"
#include "carousel/model/config.h"
#include "carousel/model/families/family.h"

namespace carousel::model {

class StoredParams {
 public:
  /// `config` and `checkpoint` must outlive the object. Without a checkpoint (null) nothing is found.
  StoredParams(const ModelConfig& config, const formats::Checkpoint* checkpoint, const std::string& where);

  struct Found {
    const formats::TensorEntry* entry = nullptr;  // null: the checkpoint has none of the parameter's places
    bool permuted = false;                        // its values are in another order than the block's
  };
  /// The best of the parameter's places that the checkpoint has.
  Found find(const std::string& name) const { return find(name, false); }
  /// The best of the places whose type a matrix can be read from.
  Found find_weight(const std::string& name) const { return find(name, true); }

 private:
  Found find(const std::string& name, bool weights_only) const;

  const ModelConfig& config_;
  const formats::Checkpoint* checkpoint_;
  TensorNames names_;
};

}  // namespace carousel::model
