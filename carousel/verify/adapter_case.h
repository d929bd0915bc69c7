// SPDX-License-Identifier: Apache-2.0
// A reference case of an adapter: its files and expected.safetensors; the base model is a folder beside it.
#pragma once

#include <string>
#include <vector>

#include "carousel/formats/safetensors.h"
#include "carousel/model/load.h"
#include "carousel/verify/reference_case.h"

namespace carousel::verify {

/// The folder of the base model; empty: `folder` holds no adapter. Throws Error(kInput) where the base is not there.
std::string base_of(const std::string& folder);
/// The model of a case, its adapter merged if it has one. Throws as base_of and model::load do.
model::Model load_case(const std::string& folder, const Setup& setup);
/// Compares each "merged.<weight>" with that weight of the base, the adapter added. Nothing where there is no adapter.
/// Throws Error(kIo, kInput) for a malformed case.
std::vector<Comparison> compare_merged(const std::string& folder, const formats::SafetensorsFile& expected,
                                       const Stream& stream);

}  // namespace carousel::verify
