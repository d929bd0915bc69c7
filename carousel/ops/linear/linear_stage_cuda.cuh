// SPDX-License-Identifier: Apache-2.0
// A few rows of x in shared memory, as floats or rounded to 8 bits, and their products with 16 bytes of weights.
#pragma once

#include <type_traits>

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/linear/linear_parts_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kStreamThreads = 512;  // that share one copy of x

/// Columns of x in shared memory at a time: at most 64 KB for all rows, 80 as codes. They are whole steps of a warp,
/// which therefore never cross.
__host__ __device__ constexpr int columns_at_once(int rows, bool as_codes) {
  if (as_codes) return rows <= 4 ? 16384 : 8192;
  return rows == 1 ? 16384 : rows == 2 ? 8192 : rows <= 4 ? 4096 : 2048;
}

/// 16 bytes of a row, and the scale of their block. It is widened where it is used: widening waits for its load.
template <class T>
struct RowPiece {
  uint4 bytes;
  __half held_scale;

  __device__ float scale() const { return __half2float(held_scale); }
};

/// Where lanes read an output's row. Rows begin at multiples of 16 bytes.
template <class T>
struct RowReader {
  const uint4* pieces;
  const __half* scales;

  __device__ void open(const char* row, int64_t cols) {
    pieces = reinterpret_cast<const uint4*>(row);
    if constexpr (Row<T>::kIsBlocks) scales = reinterpret_cast<const __half*>(row + Row<T>::scales_at(cols));
  }
  /// Piece i; zeros beyond the row. The weights are read once, so they should not push x out of the caches.
  __device__ RowPiece<T> read(int i, int count) const {
    RowPiece<T> piece = {make_uint4(0, 0, 0, 0), __ushort_as_half(0)};
    if (i >= count) return piece;
    piece.bytes = __ldcs(pieces + i);
    if constexpr (Row<T>::kIsBlocks) piece.held_scale = scales[i * Row<T>::kCount / 32];
    return piece;
  }
  /// The lane's pieces of the warp's step that begins with piece i0.
  template <int kAhead>
  __device__ void read_step(int i0, int count, RowPiece<T> (&step)[kAhead]) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int s = 0; s < kAhead; ++s) step[s] = read(i0 + s * kWarp + lane, count);
  }
};

/// Byte `which` of a word as a float. 2^23 + byte is a float whose lowest bits are the byte.
__device__ inline float byte_of(uint32_t word, int which) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650u | static_cast<uint32_t>(which)));
}

/// Adds a piece's products with its columns of x: x(p) is the p-th four of them.
template <class X>
__device__ inline float add_piece(const RowPiece<float>& piece, const X& x, float sum) {
  const float4 x4 = x(0);
  sum = fmaf(x4.x, __uint_as_float(piece.bytes.x), sum);
  sum = fmaf(x4.y, __uint_as_float(piece.bytes.y), sum);
  sum = fmaf(x4.z, __uint_as_float(piece.bytes.z), sum);
  return fmaf(x4.w, __uint_as_float(piece.bytes.w), sum);
}
__device__ inline float2 widened_pair(uint32_t pair, __nv_bfloat16) { return make_float2(low_of(pair), high_of(pair)); }
__device__ inline float2 widened_pair(uint32_t pair, __half) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
/// bf16 and f16.
template <class T, class X>
__device__ inline float add_piece(const RowPiece<T>& piece, const X& x, float sum) {
  const uint32_t words[4] = {piece.bytes.x, piece.bytes.y, piece.bytes.z, piece.bytes.w};
#pragma unroll
  for (int p = 0; p < 2; ++p) {
    const float4 x4 = x(p);
    const float2 low = widened_pair(words[2 * p], T{}), high = widened_pair(words[2 * p + 1], T{});
    sum = fmaf(x4.x, low.x, sum);
    sum = fmaf(x4.y, low.y, sum);
    sum = fmaf(x4.z, high.x, sum);
    sum = fmaf(x4.w, high.y, sum);
  }
  return sum;
}
/// Numbers are summed exactly as floats, then scaled once.
template <class X>
__device__ inline float add_piece(const RowPiece<Q8Row>& piece, const X& x, float sum) {
  constexpr float kZero = 8388608.0f + 128.0f;  // 2^23 + what makes a byte of an i8 positive
  const uint32_t words[4] = {piece.bytes.x, piece.bytes.y, piece.bytes.z, piece.bytes.w};
  float block = 0;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    const float4 x4 = x(p);
    const uint32_t word = words[p] ^ 0x80808080u;
    block = fmaf(x4.x, byte_of(word, 0) - kZero, block);
    block = fmaf(x4.y, byte_of(word, 1) - kZero, block);
    block = fmaf(x4.z, byte_of(word, 2) - kZero, block);
    block = fmaf(x4.w, byte_of(word, 3) - kZero, block);
  }
  return fmaf(piece.scale(), block, sum);
}
template <class X>
__device__ inline float add_piece(const RowPiece<Q4Row>& piece, const X& x, float sum) {
  constexpr float kZero = 8388608.0f + 8.0f;
  const uint32_t words[4] = {piece.bytes.x, piece.bytes.y, piece.bytes.z, piece.bytes.w};
  float block = 0;
#pragma unroll
  for (int p = 0; p < 8; ++p) {  // low halves are columns 0 to 15, high ones 16 to 31
    const float4 x4 = x(p);
    const uint32_t word = (p < 4 ? words[p] : words[p - 4] >> 4) & 0x0f0f0f0fu;
    block = fmaf(x4.x, byte_of(word, 0) - kZero, block);
    block = fmaf(x4.y, byte_of(word, 1) - kZero, block);
    block = fmaf(x4.z, byte_of(word, 2) - kZero, block);
    block = fmaf(x4.w, byte_of(word, 3) - kZero, block);
  }
  return fmaf(piece.scale(), block, sum);
}

/// Columns of x in shared memory, kRows rows of them. Fours of columns that one lane reads
/// one after the other lie apart, so that the lanes of a warp read 16 bytes side by side.
template <class T, int kRows, bool kRounds>
struct StagedFloats {
  static constexpr int kFours = Row<T>::kCount / 4;
  float4* shared;  // [kRows][kFours][pieces]
  int pieces;      // of a row that are there at a time, at most

  static size_t bytes(int64_t columns) { return static_cast<size_t>(columns * kRows) * sizeof(float); }
  __device__ StagedFloats(void* memory, int columns)
      : shared(static_cast<float4*>(memory)), pieces(columns / Row<T>::kCount) {}
  /// sum + a piece of weights times row n of x.
  __device__ float add(const RowPiece<T>& weights, int n, int piece, float sum) const {
    return add_piece(
        weights, [&](int p) { return at(n, p, piece); }, sum);
  }
  __device__ float4& at(int n, int p, int piece) const { return shared[(n * kFours + p) * pieces + piece]; }
  /// Columns k0 to k0 + count of x, by all threads; zeros for rows that x has not. With kAhead a thread asks for
  /// several fours at once.
  template <bool kAhead>
  __device__ void load(const Product& product, int64_t k0, int count) const {
    constexpr int kAtOnce = kAhead ? 4 : 1;
    const int across = count / 4, fours = kRows * across;
    const auto row_of = [&](int i) { return kRows == 1 ? 0 : i / across; };
    for (int i0 = static_cast<int>(threadIdx.x); i0 < fours; i0 += kAtOnce * kStreamThreads) {
      float4 x4[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = i0 + j * kStreamThreads, n = row_of(i);
        x4[j] = make_float4(0, 0, 0, 0);
        if (i >= fours || n >= product.N) continue;
        x4[j] = *reinterpret_cast<const float4*>(product.x + n * product.K + k0 + 4 * (i - n * across));
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = i0 + j * kStreamThreads, n = row_of(i), four = i - n * across;
        if (i >= fours) continue;
        const float4 v = x4[j];
        at(n, four % kFours, four / kFours) = make_float4(rounded_input<kRounds>(v.x), rounded_input<kRounds>(v.y),
                                                          rounded_input<kRounds>(v.z), rounded_input<kRounds>(v.w));
      }
    }
  }
  /// Columns 8 e to 8 e + 8 of the only row.
  __device__ void put(int e, const float (&x)[8]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int four = 2 * e + i;
      at(0, four % kFours, four / kFours) =
          make_float4(rounded_input<kRounds>(x[4 * i]), rounded_input<kRounds>(x[4 * i + 1]),
                      rounded_input<kRounds>(x[4 * i + 2]), rounded_input<kRounds>(x[4 * i + 3]));
    }
  }
};

/// How x is rounded to 8 bits in a block of 32 columns: its largest value over 127 is a step.
struct CodeScale {
  float step, inverse;

  __device__ explicit CodeScale(float most) {
    const bool scalable = most > 0x1p-100f;  // else its inverse may be infinite
    step = scalable ? most / 127.0f : 0.0f;
    inverse = scalable ? 127.0f / most : 0.0f;
  }
  /// NaN counts as infinite, so that the block's products are NaN too.
  __device__ static float size(float x) { return x == x ? fabsf(x) : INFINITY; }
  __device__ int code(float x) const { return __float2int_rn(x * inverse); }
};

/// The same for weights in blocks where a stream computes in bf16: x is rounded to 8 bits in blocks of 32 columns, each
/// with a scale of its own, as on the CPU, and integers are multiplied, exactly. The scale is the block's largest value
/// over 127.
template <class T, int kRows>
struct StagedCodes {
  static constexpr int kSixteens = Row<T>::kCount / 16;  // of a piece
  int4* codes;                                           // [kRows][kSixteens][pieces] 16 columns each
  int pieces;

  static size_t bytes(int64_t columns) {
    const int64_t blocks = (columns + 31) / 32;
    return static_cast<size_t>(kRows * blocks) * (32 + sizeof(float2));
  }
  __device__ StagedCodes(void* memory, int columns)
      : codes(static_cast<int4*>(memory)), pieces(columns / Row<T>::kCount) {}
  __device__ int blocks() const { return kSixteens == 2 ? pieces : (pieces + 1) / 2; }
  /// [kRows][blocks] the scale, and what the zeros of weights add.
  __device__ float2* scales() const { return reinterpret_cast<float2*>(codes + kRows * 2 * blocks()); }
  /// With kAhead a thread asks for its next columns before it rounds those that it has.
  template <bool kAhead>
  __device__ void load(const Product& product, int64_t k0, int count) const {
    const int units = (count + 31) / 32 * 4;
    float4 next[2];
    const auto ask = [&](int i) {
      const int n = i / units, column = 8 * (i % units);
      next[0] = next[1] = make_float4(0, 0, 0, 0);
      if (i >= kRows * units || n >= product.N || column >= count) return;
      const auto* const from = reinterpret_cast<const float4*>(product.x + n * product.K + k0 + column);
      next[0] = from[0], next[1] = from[1];
    };
    if (kAhead) ask(static_cast<int>(threadIdx.x));
    for (int i = static_cast<int>(threadIdx.x); i < kRows * units; i += kStreamThreads) {
      if (!kAhead) ask(i);
      const float x[8] = {next[0].x, next[0].y, next[0].z, next[0].w, next[1].x, next[1].y, next[1].z, next[1].w};
      if (kAhead) ask(i + kStreamThreads);
      put(i / units, i % units, x, 8 * (i % units) < count);
    }
  }
  /// Columns 8 e to 8 e + 8 of the only row, which is whole blocks.
  __device__ void put(int e, const float (&x)[8]) const { put(0, e, x, true); }
  /// Eight columns of row n. Four lanes take a block.
  __device__ void put(int n, int unit, const float (&x)[8], bool inside) const {
    float most = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) most = fmaxf(most, CodeScale::size(x[j]));
    const unsigned four_lanes = 0xfu << (threadIdx.x % kWarp & ~3u);
    most = fmaxf(most, __shfl_xor_sync(four_lanes, most, 1));
    most = fmaxf(most, __shfl_xor_sync(four_lanes, most, 2));
    const CodeScale scale(most);
    uint32_t words[2] = {};
    int sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int code = scale.code(x[j]);
      words[j / 4] |= (static_cast<uint32_t>(code) & 255u) << (8 * (j % 4));
      sum += code;
    }
    sum += __shfl_xor_sync(four_lanes, sum, 1);
    sum += __shfl_xor_sync(four_lanes, sum, 2);
    if (inside) {
      const int piece = 8 * unit / Row<T>::kCount, sixteen = 8 * unit % Row<T>::kCount / 16;
      auto* const to = reinterpret_cast<uint2*>(codes + (n * kSixteens + sixteen) * pieces + piece);
      to[unit % 2] = make_uint2(words[0], words[1]);
    }
    if (unit % 4 == 0) {
      scales()[n * blocks() + unit / 4] = make_float2(scale.step, scale.step * static_cast<float>(-8 * sum));
    }
  }
  __device__ float add(const RowPiece<T>& weights, int n, int piece, float sum) const {
    const int words[4] = {static_cast<int>(weights.bytes.x), static_cast<int>(weights.bytes.y),
                          static_cast<int>(weights.bytes.z), static_cast<int>(weights.bytes.w)};
    const float2 scale = scales()[n * blocks() + piece * Row<T>::kCount / 32];
    const int4 low = codes[n * kSixteens * pieces + piece];
    if constexpr (kSixteens == 1) {
      const int dot =
          __dp4a(words[3], low.w, __dp4a(words[2], low.z, __dp4a(words[1], low.y, __dp4a(words[0], low.x, 0))));
      return fmaf(weights.scale(), static_cast<float>(dot) * scale.x, sum);
    } else {  // low halves of the bytes are columns 0 to 15, high ones 16 to 31
      const int4 high = codes[(n * kSixteens + 1) * pieces + piece];
      constexpr int kHalves = 0x0f0f0f0f;
      int dot = __dp4a(words[0] & kHalves, low.x, 0), other = __dp4a(words[0] >> 4 & kHalves, high.x, 0);
      dot = __dp4a(words[1] & kHalves, low.y, dot), other = __dp4a(words[1] >> 4 & kHalves, high.y, other);
      dot = __dp4a(words[2] & kHalves, low.z, dot), other = __dp4a(words[2] >> 4 & kHalves, high.z, other);
      dot = __dp4a(words[3] & kHalves, low.w, dot), other = __dp4a(words[3] >> 4 & kHalves, high.w, other);
      return fmaf(weights.scale(), fmaf(static_cast<float>(dot + other), scale.x, scale.y), sum);
    }
  }
};

template <class T, bool kRounds>
constexpr bool kAsCodes = Row<T>::kIsBlocks&& kRounds;
template <class T, int kRows, bool kRounds>
using StagedX = std::conditional_t<kAsCodes<T, kRounds>, StagedCodes<T, kRows>, StagedFloats<T, kRows, kRounds>>;

}  // namespace
}  // namespace carousel::cuda
