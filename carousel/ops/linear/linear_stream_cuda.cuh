// SPDX-License-Identifier: Apache-2.0
// Products of few rows of x: the weights are read once, 16 bytes at a time, and are the traffic that counts. A warp
// takes one or two outputs at a time. Its lanes hold some pieces of each output's row while the next ones are on their
// way, those of its next outputs too, so 64 KB are in flight on every multiprocessor from the first piece to the last,
// which hides the memory's latency at its full rate. x lies in shared memory: through the first cache it would take
// more of it than the weights.
//
// A lane's chain over k is that of stream_weights (linear_cuda.cu), whatever the number of rows of x or of outputs of a
// warp: with floats both give the same bits.
#pragma once

#include <algorithm>

#include "carousel/cuda/async.cuh"
#include "carousel/cuda/reduce.cuh"
#include "carousel/ops/linear/linear_parts_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int kStreamThreads = 512;  // that share one copy of x

/// Pieces of each output's row that a lane has on their way.
__host__ __device__ constexpr int ahead_of(int rows, int outputs) { return rows <= 4 && outputs == 1 ? 4 : 2; }

/// Columns of x in shared memory at a time: at most 64 KB for all rows. They are whole steps of a warp, which therefore
/// never cross.
__host__ __device__ constexpr int columns_at_once(int rows) {
  return rows == 1 ? 16384 : rows == 2 ? 8192 : rows <= 4 ? 4096 : 2048;
}
static_assert(columns_at_once(4) % (ahead_of(4, 1) * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(8) % (ahead_of(8, 1) * kWarp * Row<Q4Row>::kCount) == 0);

/// 16 bytes of a row, and the scale of their block.
template <class T>
struct RowPiece {
  uint4 bytes;
  float scale;
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
  __device__ RowPiece<T> read(int64_t i, int64_t count) const {
    RowPiece<T> piece = {make_uint4(0, 0, 0, 0), 0.0f};
    if (i >= count) return piece;
    piece.bytes = __ldcs(pieces + i);
    if constexpr (Row<T>::kIsBlocks) piece.scale = __half2float(scales[i * Row<T>::kCount / 32]);
    return piece;
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
  return fmaf(piece.scale, block, sum);
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
  return fmaf(piece.scale, block, sum);
}

/// Columns of x in shared memory, kRows rows of them. Fours of columns that one lane reads one after the other lie
/// apart, so that the lanes of a warp read 16 bytes side by side.
template <class T, int kRows, bool kRounds>
struct StagedX {
  static constexpr int kFours = Row<T>::kCount / 4;
  float4* shared;  // [kRows][kFours][pieces]
  int pieces;      // of a row that are there at a time, at most

  __device__ float4& at(int n, int p, int piece) const { return shared[(n * kFours + p) * pieces + piece]; }
  /// Columns k0 to k0 + count of x, by all threads; zeros for rows that x has not.
  __device__ void load(const Product& product, int64_t k0, int count) const {
    for (int i = static_cast<int>(threadIdx.x); i < kRows * (count / 4); i += kStreamThreads) {
      const int n = i / (count / 4), four = i % (count / 4);
      float4 x4 = make_float4(0, 0, 0, 0);
      if (n < product.N) x4 = *reinterpret_cast<const float4*>(product.x + n * product.K + k0 + 4 * four);
      if constexpr (kRounds) x4 = make_float4(rounded(x4.x), rounded(x4.y), rounded(x4.z), rounded(x4.w));
      at(n, four % kFours, four / kFours) = x4;
    }
  }
};

/// What a warp has read ahead: steps of kAhead pieces of kOutputs rows, and group after group of outputs.
template <class T, int kOutputs, int kAhead>
struct Ahead {
  const Parts& parts;
  int64_t cols, pieces, groups, stride;
  int64_t group, i0 = 0;  // of the step that is read next
  RowReader<T> rows[kOutputs];
  RowPiece<T> next[kOutputs][kAhead];

  __device__ void open() {
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
      const int64_t row = min(group * kOutputs + r, parts.rows - 1);  // beyond the last one: the last, and not written
      const Parts::Part& part = parts.of_row(row);
      rows[r].open(part.row(row - part.first_row), cols);
    }
  }
  /// Lets the second level of cache fetch what follows the steps that are on their way, a few KB for each warp: the
  /// memory would idle while the kernels before this one end.
  __device__ void fetch() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    constexpr int kRead = kAhead * kWarp * 16, kFetched = 4096 / kOutputs;
    if (pieces * 16 < kRead + kFetched) return;
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
      const char* const from = reinterpret_cast<const char*>(rows[r].pieces) + kRead;
      if (lane == r) asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(kFetched) : "memory");
    }
#endif
  }
  __device__ void read() {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
      for (int s = 0; s < kAhead; ++s) next[r][s] = rows[r].read(i0 + s * kWarp + lane, pieces);
    }
    i0 += kAhead * kWarp;
    if (i0 < pieces || group + stride >= groups) return;
    i0 = 0;
    group += stride;
    open();
  }
};

/// A warp takes groups of kOutputs outputs, the grid's number of warps apart. K is whole pieces. Where x does not fit
/// into shared memory whole, every warp has one group, and all take all steps, so that they meet at the barriers:
/// before x is replaced, and before it is read.
template <class T, int kRows, int kOutputs, bool kRounds>
__global__ void __launch_bounds__(kStreamThreads, kRows <= 2 ? 2 : 1) stream_pieces(Parts parts, Product product) {
  constexpr int kCount = Row<T>::kCount, kColumns = columns_at_once(kRows), kAhead = ahead_of(kRows, kOutputs);
  constexpr int kStep = kAhead * kWarp;
  extern __shared__ float4 shared_x[];
  const StagedX<T, kRows, kRounds> x = {shared_x, static_cast<int>(min(int64_t{kColumns}, product.K) / kCount)};
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t warp = int64_t{blockIdx.x} * (kStreamThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t pieces = product.K / kCount, groups = (parts.rows + kOutputs - 1) / kOutputs;
  const bool fits = product.K <= kColumns;
  const int64_t stride = fits ? int64_t{gridDim.x} * (kStreamThreads / kWarp) : groups;
  Ahead<T, kOutputs, kAhead> ahead = {parts, product.K, pieces, groups, stride, warp};
  ahead.open();
  ahead.read();  // weights, which no kernel writes: they are on their way while the kernel before this one ends
  ahead.fetch();
  await_inputs();
  if (fits) {
    x.load(product, 0, static_cast<int>(product.K));
    __syncthreads();
    if (warp >= groups) return;
  }
  for (int64_t group = warp;; group += stride) {
    float sums[kOutputs][kRows] = {};
    for (int64_t i0 = 0; i0 < pieces; i0 += kStep) {
      const int64_t k0 = i0 * kCount;
      if (!fits && k0 % kColumns == 0) {
        __syncthreads();
        x.load(product, k0, static_cast<int>(min(int64_t{kColumns}, product.K - k0)));
        __syncthreads();
      }
      RowPiece<T> now[kOutputs][kAhead];
#pragma unroll
      for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
        for (int s = 0; s < kAhead; ++s) now[r][s] = ahead.next[r][s];
      }
      ahead.read();
      const int staged = static_cast<int>(k0 % kColumns / kCount);
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        const int piece = staged + s * kWarp + lane;
        if (i0 + s * kWarp + lane >= pieces) continue;
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
          const auto x_n = [&](int p) { return x.at(n, p, piece); };
#pragma unroll
          for (int r = 0; r < kOutputs; ++r) sums[r][n] = add_piece(now[r][s], x_n, sums[r][n]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) sums[r][n] = warp_sum(sums[r][n]);
      const int64_t row = group * kOutputs + r;
      if (lane != 0 || row >= parts.rows) continue;
      const Parts::Part& part = parts.of_row(row);
      const int64_t m = row - part.first_row;
      const float bias = part.bias != nullptr ? part.bias[m] : 0.0f;
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        if (n < product.N) product.y[n * product.y_stride + part.first_col + m] = sums[r][n] + bias;
      }
    }
    if (group + stride >= groups) return;
  }
}

template <class T, int kRows, int kOutputs, bool kRounds>
void stream_with(const Gpu::Impl& gpu, const Parts& parts, const Product& product) {
  const int64_t columns = std::min<int64_t>(columns_at_once(kRows), product.K);
  const size_t bytes = static_cast<size_t>(columns * kRows) * sizeof(float);
  const auto kernel = stream_pieces<T, kRows, kOutputs, kRounds>;
  allow_shared(kernel, bytes);
  int64_t blocks = blocks_of(parts.rows, kStreamThreads / kWarp * kOutputs);
  if (columns == product.K) blocks = std::min(blocks, resident_blocks(gpu, kernel, kStreamThreads, bytes));
  launch_early(gpu, kernel, dim3(static_cast<unsigned>(blocks)), kStreamThreads, bytes, parts, product);
}

/// Two outputs of a warp share what is read of x; where that leaves warps without, each has one.
template <class T, int kRows, bool kRounds>
void stream_rows(const Gpu::Impl& gpu, const Parts& parts, const Product& product) {
  const int64_t warps = int64_t{gpu.multiprocessors} * 2 * (kStreamThreads / kWarp);
  if (parts.rows < 4 * warps || (kRows > 4 && Row<T>::kIsBlocks)) {
    return stream_with<T, kRows, 1, kRounds>(gpu, parts, product);
  }
  stream_with<T, kRows, 2, kRounds>(gpu, parts, product);
}

/// N is at most 8, K whole pieces.
template <class T, bool kRounds>
void stream_in_pieces(const Gpu::Impl& gpu, const Parts& parts, const Product& product) {
  if (product.N <= 1) return stream_rows<T, 1, kRounds>(gpu, parts, product);
  if (product.N <= 2) return stream_rows<T, 2, kRounds>(gpu, parts, product);
  if (product.N <= 4) return stream_rows<T, 4, kRounds>(gpu, parts, product);
  stream_rows<T, 8, kRounds>(gpu, parts, product);
}

}  // namespace
}  // namespace carousel::cuda
