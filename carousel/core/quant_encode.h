// SPDX-License-Identifier: Apache-2.0
// Encoders of the blocks of GGUF whose scales and minima are searched for the least squared error: Q5_0, Q5_1, Q4_K,
// Q5_K and Q6_K. encode_blocks (quant_blocks.h) calls them; the bytes are the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/dtype.h"

namespace carousel {

/// Encodes whole blocks of finite values; what the scales cannot reach (magnitudes above largest_value(dtype))
/// saturates. Null: a simple block type, or one that is only read.
using BlockEncoder = void (*)(const float* values, size_t blocks, uint8_t* out);
BlockEncoder block_encoder(DType dtype);

/// Whether encode_blocks takes this type.
bool is_encodable(DType dtype);

}  // namespace carousel
