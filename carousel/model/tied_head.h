// SPDX-License-Identifier: Apache-2.0
// Heads that a config ties to the embeddings, and that the file holds all the same.
#pragma once

#include "carousel/formats/checkpoint.h"
#include "carousel/model/config.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// Unties the head, with a warning, where the file has one that differs from the embeddings: transformers then uses
/// both. The config's source says so too, so that what is written from it loads as it was. Families of other packages
/// stay as they are.
void untie_other_head(const formats::Checkpoint& checkpoint, const ModelPath& place, ModelConfig& config);

}  // namespace carousel::model
