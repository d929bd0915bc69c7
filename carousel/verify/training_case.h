// SPDX-License-Identifier: Apache-2.0
// The tensors of a reference case that training computes: the loss of a batch, its gradients, and some steps of AdamW
// or Muon.
#pragma once

#include <string>
#include <vector>

#include "carousel/formats/safetensors.h"
#include "carousel/verify/reference_case.h"

namespace carousel::verify {

/// Whether compare_training computes the expected tensor of this name.
bool is_training(const std::string& name);
/// Compares them all; of gradients some gates are near zero, which are bounded by the largest gradient of the case.
/// Throws Error(kInput, kIo) for a malformed case.
/// `base`: where the folder holds an adapter, which alone is trained then, the folder of its model; else empty.
std::vector<Comparison> compare_training(const std::string& folder, const formats::SafetensorsFile& expected,
                                         const Setup& setup, const std::string& base = {});

}  // namespace carousel::verify
