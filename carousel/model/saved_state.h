// SPDX-License-Identifier: Apache-2.0
// A sequence's state in a file: safetensors with the model's fingerprint, the position and a checksum (docs/state.md).
// A file is checked whole before a state is made of it.
#pragma once

#include <string>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// All that resumes a sequence.
struct SavedState {
  State state;                  // its memory
  std::vector<int32_t> tokens;  // [pos] the tokens it has seen, for penalties and display; empty without tokens
  Tensor logits;                // [V] f32 after the last token, to sample from without running one; or empty
};

/// Writes the file whole or not at all. Throws Error(kIo).
void save_state(const std::string& path, const SavedState& saved, const Model& model);
/// Whether the file's beginning says that it is a saved state, of any model and version.
bool looks_like_state(const std::string& path);
/// Throws Error(kIo), Error(kState): another model's state, a truncated or altered file, a wrong tensor.
SavedState load_state(const std::string& path, const Model& model);

}  // namespace carousel::model
