// SPDX-License-Identifier: Apache-2.0
// Dropout: Philox 4x32-10 as core/rng.h has it, sixteen blocks side by side. Columns go in tiles of 64: word w of block
// g of a tile belongs to column 16 w + g, so that words are used as they lie in the registers.
#include "carousel/ops/dropout/dropout_cpu.h"

#include <cstring>

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kBlocks = 16;  // of Philox, for one tile of columns
constexpr int64_t kTileColumns = 4 * kBlocks;

typedef uint32_t Words __attribute__((vector_size(4 * kBlocks)));
typedef float Floats __attribute__((vector_size(4 * kBlocks)));
typedef uint64_t Wide __attribute__((vector_size(4 * kBlocks)));  // lanes 2 i and 2 i + 1 of Words as one

/// The high and the low halves of x * multiplier.
CAROUSEL_INLINE void multiply(const Words& x, uint32_t multiplier, Words* high, Words* low) {
  constexpr uint64_t kLow = 0xFFFFFFFFu;
  Wide lanes;
  std::memcpy(&lanes, &x, sizeof lanes);
  const Wide even = (lanes & kLow) * uint64_t{multiplier}, odd = (lanes >> 32) * uint64_t{multiplier};
  const Wide highs = (even >> 32) | (odd & ~kLow), lows = (even & kLow) | (odd << 32);
  std::memcpy(high, &highs, sizeof highs);
  std::memcpy(low, &lows, sizeof lows);
}

/// Words 0 to 3 of blocks first to first + 15 of a stream.
CAROUSEL_INLINE void philox_blocks(uint64_t seed, uint64_t stream, uint64_t first, Words (&x)[4]) {
  for (int64_t g = 0; g < kBlocks; ++g) {
    const uint64_t block = first + static_cast<uint64_t>(g);
    x[0][g] = static_cast<uint32_t>(block);
    x[1][g] = static_cast<uint32_t>(block >> 32);
  }
  x[2] = Words{} + static_cast<uint32_t>(stream);
  x[3] = Words{} + static_cast<uint32_t>(stream >> 32);
  auto key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Words high0, low0, high1, low1;
    multiply(x[0], 0xD2511F53u, &high0, &low0);
    multiply(x[2], 0xCD9E8D57u, &high1, &low1);
    x[0] = high1 ^ x[1] ^ key0;
    x[1] = low1;
    x[2] = high0 ^ x[3] ^ key1;
    x[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/// One row. Block numbers are those of its place in the row of the data.
void drop_row(const ops::DropoutArgs& args, uint64_t stream, int64_t place, const float* x, float* out) {
  const int64_t tiles = (args.D + kTileColumns - 1) / kTileColumns;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    Words bits[4];
    philox_blocks(args.seed, stream, static_cast<uint64_t>((place * tiles + tile) * kBlocks), bits);
    const int64_t first = tile * kTileColumns;
    for (int64_t w = 0; w < 4 && first + w * kBlocks < args.D; ++w) {
      const int64_t at = first + w * kBlocks, left = args.D - at;
      const size_t bytes = sizeof(float) * static_cast<size_t>(left < kBlocks ? left : kBlocks);
      const Floats scale = Floats{} + args.scale;
      Floats keep;
      Words scale_bits;
      std::memcpy(&scale_bits, &scale, sizeof scale);
      scale_bits &= bits[w] >= args.bound;
      std::memcpy(&keep, &scale_bits, sizeof keep);
      Floats values = {};
      if (bytes == sizeof values) {
        std::memcpy(&values, x + at, sizeof values);
        values *= keep;
        std::memcpy(out + at, &values, sizeof values);
      } else {
        std::memcpy(&values, x + at, bytes);
        values *= keep;
        std::memcpy(out + at, &values, bytes);
      }
    }
  }
}

}  // namespace

void dropout(const Stream& stream, const ops::DropoutArgs& args) {
  parallel_ranges(stream, args.N, args.D * 12, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t n = begin; n < end; ++n) {
      while (s + 1 < args.span_count && args.spans[s + 1].begin <= n) ++s;
      const ops::Dropout::Span& span = args.spans[s];
      const uint64_t of_row = static_cast<uint64_t>(span.row) << 16 | static_cast<uint64_t>(args.sublayer);
      drop_row(args, of_row, span.place + n - span.begin, args.x.f32() + n * args.x.stride,
               args.out.f32() + n * args.out.stride);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
