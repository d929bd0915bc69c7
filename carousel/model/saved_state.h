// SPDX-License-Identifier: Apache-2.0
// A sequence's state in a file: safetensors with the model's fingerprint, the position and a checksum
// (docs/state.md). Nothing is handed out before all of it is checked.
#pragma once

#include <string>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/model/load.h"

namespace carousel::model {

/// What resumes a sequence: its memory, the tokens it has seen (for penalties and display), and the logits after the
/// last one, so that sampling can go on without running a token.
struct SavedState {
  State state;
  std::vector<int32_t> tokens;  // [pos]; of a model without tokens empty
  Tensor logits;                // [V] f32, or empty
};

/// Written whole or not at all. Throws Error(kIo).
void save_state(const std::string& path, const SavedState& saved, const Model& model);
/// Whether the file's beginning says that it is one, of whatever model and version.
bool looks_like_state(const std::string& path);
/// Throws Error(kIo), Error(kState): another model's state, a truncated or altered file, a wrong tensor.
SavedState load_state(const std::string& path, const Model& model);

}  // namespace carousel::model
