// SPDX-License-Identifier: Apache-2.0
// The row-major encoding of the block types Q8 and Q4: blocks of 32 values along a row, each with one f16 scale d.
//   Q8, 34 bytes: d, i8 q[32]        value j = d * q[j]
//   Q4, 18 bytes: d, u8 pairs[16]    value j = d * (low half of pairs[j] - 8), value j + 16 = d * (high half - 8)
// These are GGUF's Q8_0 and Q4_0, byte for byte. Zero is exact in both. The other block types are GGUF's of their names
// (quant_decode.cc).
#pragma once

#include <cstddef>
#include <cstdint>

#include "carousel/core/dtype.h"

namespace carousel {

constexpr size_t kQ8BlockBytes = 34;
constexpr size_t kQ4BlockBytes = 18;

/// The 16 values that a code of IQ4_NL and IQ4_XS chooses from, in multiples of the scale.
constexpr int kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// A row of the table of block types: how one is decoded, and where its scales lie.
struct BlockForm {
  void (*decode)(const uint8_t* block, float* out);  // null: Q8 and Q4, which quant_blocks.cc decodes
  size_t scale, scales;  // byte of its first f16 scale, and how many there are: the second is that of minima
};
const BlockForm& block_form(DType dtype);

/// Blocks to f32. `count` need not fill the last block; `blocks` needs no alignment.
void decode_blocks(const void* blocks, DType dtype, float* out, size_t count);

/// f32 to blocks, the last one filled up with zeros. The result is the same on every machine.
/// Q8: d is the largest magnitude / 127 in f16, values go to their nearest multiple of it. Q4: the scale is searched
/// for the least squared error, never above that of the largest value / -8. Finite values only; what d's range cannot
/// reach (magnitudes above 127 * 65504, in Q4 8 * 65504) saturates.
void encode_blocks(const float* values, DType dtype, void* blocks, size_t count);

}  // namespace carousel
