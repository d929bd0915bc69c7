// SPDX-License-Identifier: Apache-2.0
// Tensor names that llama.cpp gives in every architecture. What a layer's parts are called is the family's (families/).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "carousel/model/families/family.h"

namespace carousel::model {

/// The part of a name after the layer, and the part GGUF has after "blk.N.".
struct GgufName {
  const char* name;
  const char* file;
};

/// Where GGUF has the parameter `name`: embeddings, head, final norm, and by `parts` what lies in layers. One place.
std::vector<TensorSource> gguf_places(const std::string& name, std::span<const GgufName> parts);
/// A table that this build computes; a tied model's copy of its embeddings.
bool gguf_ignorable(const ModelConfig& config, const std::string& tensor);

}  // namespace carousel::model
