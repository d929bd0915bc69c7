// SPDX-License-Identifier: Apache-2.0
// Llama 3's stretched rotary wavelengths, which GGUF holds as a tensor of divisors, one per pair: "rope_freqs.weight".
#pragma once

#include <string>
#include <vector>

#include "carousel/core/json.h"
#include "carousel/formats/safetensors.h"
#include "carousel/model/config.h"

namespace carousel::model {

inline constexpr const char* kRopeTensor = "rope_freqs.weight";

/// The divisors of a model, for readers that know the tensor; nothing where the rotation is the plain one.
std::vector<float> rope_divisors(const ModelConfig& config);

/// The divisors that config.json's "llama3" parameters mean, for heads of `dim`.
std::vector<float> rope_factors(const Json& parameters, double theta, int64_t dim);

/// The "llama3" parameters that give the tensor's divisors. They are read from the keys `prefix` + "factor",
/// "low_freq_factor", "high_freq_factor" and "original_context_length" where the file has them (this project writes
/// them), else solved for. Throws Error(kInput) when they do not give the divisors.
Json read_rope_factors(const formats::TensorEntry& tensor, double theta, int64_t dim, Fields& keys,
                       const std::string& prefix);

}  // namespace carousel::model
