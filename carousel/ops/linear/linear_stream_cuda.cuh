// SPDX-License-Identifier: Apache-2.0
// Products of few rows of x: the weights are read once, 16 bytes at a time, and are the traffic that counts. A warp
// takes one or two outputs at a time. Its lanes hold some pieces of each output's row while the next ones are on their
// way, those of its next outputs too, so 64 KB are in flight on every multiprocessor from the first piece to the last,
// which hides the memory's latency at its full rate. x lies in shared memory: through the first cache it would take
// more of it than the weights.
//
// A lane's chain over k is that of stream_weights (linear_plain_cuda.cuh), whatever the number of rows of x or of
// outputs of a warp: with floats both give the same bits.
#pragma once

#include <algorithm>

#include "carousel/cuda/float_math.cuh"
#include "carousel/ops/gate/activations.h"
#include "carousel/ops/linear/linear_stage_cuda.cuh"
#include "carousel/ops/norm/norm_rows_cuda.cuh"

namespace carousel::cuda {
namespace {

constexpr int64_t kUnitRows = 4;  // up to here a warp may have a gate and what it lets through

/// Pieces of each output's row that a lane has on their way.
__host__ __device__ constexpr int ahead_of(int rows, int outputs) { return rows <= 4 && outputs == 1 ? 4 : 2; }
constexpr int kFarAhead = 8;  // of one row's warps where every multiprocessor has one block

static_assert(columns_at_once(1, false) % (kFarAhead * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(1, true) % (kFarAhead * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(4, false) % (ahead_of(4, 1) * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(8, false) % (ahead_of(8, 1) * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(4, true) % (ahead_of(4, 1) * kWarp * Row<Q4Row>::kCount) == 0);
static_assert(columns_at_once(8, true) % (ahead_of(8, 1) * kWarp * Row<Q4Row>::kCount) == 0);

/// What a warp has read ahead: steps of kAhead pieces of kOutputs rows, and group after group of outputs.
template <class T, int kOutputs, int kAhead>
struct Ahead {
  const Parts& parts;
  int64_t cols, units;
  int pieces, groups, stride;
  int group, i0 = 0;  // of the step that is read next
  RowReader<T> rows[kOutputs];
  RowPiece<T> next[kOutputs][kAhead];

  /// Output r of a group; those of a unit are its gate and what that lets through.
  __device__ int64_t row_of(int which, int r) const {
    return units > 0 ? r * units + which : int64_t{which} * kOutputs + r;
  }
  __device__ void open() {
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
      const int64_t row = min(row_of(group, r), parts.rows - 1);  // beyond the last one: the last, and not written
      const Parts::Part& part = parts.of_row(row);
      rows[r].open(part.row(row - part.first_row), cols);
    }
  }
  /// Lets the second level of cache fetch what the warp reads after the first `read` bytes of its outputs, a few KB:
  /// the memory would idle while the kernels before this one end. Where rows are short it is those of its next outputs
  /// too.
  __device__ void fetch(int read) const {
    constexpr int kFetched = kAhead * kWarp * 16 + 4096 / kOutputs;  // of an output's row and of those after it
    const int lane = static_cast<int>(threadIdx.x) % kWarp, later = lane / kOutputs;
    const int64_t row = row_of(group + later * stride, lane % kOutputs);
    if (group + later * stride >= groups || row >= parts.rows) return;
    const Parts::Part& part = parts.of_row(row);
    const int64_t before = later * part.row_bytes;
    const int64_t from = later == 0 ? read : 0, to = min(kFetched - before, part.row_bytes);
    if (from < to) prefetch_bytes(part.row(row - part.first_row) + from, static_cast<int>(to - from) & ~15);
  }
  /// The lane's piece s of the next step, of each output.
  __device__ void read(int s) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) next[r][s] = rows[r].read(i0 + s * kWarp + lane, pieces);
  }
  __device__ void read() {
#pragma unroll
    for (int s = 0; s < kAhead; ++s) read(s);
    advance();
  }
  /// Once all pieces of the next step are on their way.
  __device__ void advance() {
    i0 += kAhead * kWarp;
    if (i0 < pieces || group + stride >= groups) return;
    i0 = 0;
    group += stride;
    open();
  }
};

/// Rows of floats that a launch of blocks takes along: a kernel of their own would keep few warps busy for long. The
/// chains are those of stream_pieces<float>.
struct Beside {
  Parts parts;
  int blocks = 0;  // of the grid, the first ones: a warp takes a row
};

template <int kRows>
__device__ void stream_beside(const Parts& parts, const Product& product, int row) {
  constexpr int kAhead = 4;
  if (row >= parts.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, pieces = static_cast<int>(product.K / 4);
  const Parts::Part& part = parts.of_row(row);
  const int64_t m = row - part.first_row;
  RowReader<float> reader;
  reader.open(part.row(m), product.K);
  float sums[kRows] = {};
  for (int i0 = 0; i0 < pieces; i0 += kAhead * kWarp) {
    RowPiece<float> w[kAhead];
    reader.read_step(i0, pieces, w);
#pragma unroll
    for (int n = 0; n < kRows; ++n) {
      float4 x[kAhead];
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        const int i = i0 + s * kWarp + lane;
        x[s] = i < pieces && n < product.N ? four_at(product.x, n * product.K + 4 * i) : make_float4(0, 0, 0, 0);
      }
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        if (i0 + s * kWarp + lane < pieces)
          sums[n] = add_piece(
              w[s], [&](int) { return x[s]; }, sums[n]);
      }
    }
  }
  const float bias = part.bias != nullptr ? part.bias[m] : 0.0f;
#pragma unroll
  for (int n = 0; n < kRows; ++n) {
    const float sum = warp_sum(sums[n]);
    if (lane == 0 && n < product.N) product.y[n * product.y_stride + part.first_col + m] = sum + bias;
  }
}

static_assert(kNormingThreads == kStreamThreads && kMostNormed <= columns_at_once(1, false) &&
              kMostNormed <= columns_at_once(1, true));

/// A warp takes groups of kOutputs outputs, the grid's number of warps apart. K is whole pieces. Where x does not fit
/// into shared memory whole, every warp has one group, and all take all steps, so that they meet at the barriers:
/// before x is replaced, and before it is read. With kNorms every block forms x, one row, by `norm`.
template <class T, int kRows, int kOutputs, bool kRounds, int kAhead, bool kNorms>
__global__ void __launch_bounds__(kStreamThreads, kRows <= 2 && kAhead < kFarAhead ? 2 : 1)
    stream_pieces(Parts parts, Product product, Beside beside, RowNorm norm) {
  constexpr int kCount = Row<T>::kCount, kColumns = columns_at_once(kRows, kAsCodes<T, kRounds>);
  constexpr int kStep = kAhead * kWarp;
  extern __shared__ float4 shared_x[];
  const StagedX<T, kRows, kRounds> x(shared_x, static_cast<int>(min(int64_t{kColumns}, product.K)));
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr int kWarps = kStreamThreads / kWarp;
  const auto block = static_cast<int>(blockIdx.x) - beside.blocks, blocks = static_cast<int>(gridDim.x) - beside.blocks;
  // Blocks have neighbouring groups, so that all have as many warps with a group more.
  const int warp = static_cast<int>(threadIdx.x) / kWarp * blocks + block;
  const int pieces = static_cast<int>(product.K / kCount);
  const auto groups = static_cast<int>((parts.rows + kOutputs - 1) / kOutputs);
  const bool fits = kNorms || product.K <= kColumns;
  const int stride = fits ? blocks * kWarps : groups;
  if constexpr (Row<T>::kIsBlocks) {
    if (block < 0) {
      if constexpr (kNorms) {
        NormedEight normed(norm);
        await_inputs();
        auto* const floats = reinterpret_cast<float*>(shared_x);
        const Eight eight = normed.run(blockIdx.x == 0);
        if (8 * threadIdx.x < product.K) eight.put(floats, 8 * threadIdx.x);
        product.x = floats;
        __syncthreads();
      } else {
        await_inputs();
      }
      const int row = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
      return stream_beside<kRows>(beside.parts, product, row);
    }
  }
  Ahead<T, kOutputs, kAhead> ahead = {parts, product.K, product.units, pieces, groups, stride, warp};
  ahead.open();
  // Weights, which no kernel writes, are on their way while the kernel before this one ends. A norm needs the registers
  // for which they would come.
  if constexpr (kNorms) {
    ahead.fetch(0);
    NormedEight normed(norm);
    await_inputs();
    const Eight eight = normed.run(blockIdx.x == 0);
    if constexpr (!kAsCodes<T, kRounds>) ahead.read();
    if (8 * threadIdx.x < product.K) x.put(static_cast<int>(threadIdx.x), eight.of);
    if constexpr (kAsCodes<T, kRounds>) ahead.read();  // codes need registers too
  } else {
    ahead.read();
    ahead.fetch(kAhead * kWarp * 16);
    await_inputs();
    if (fits) x.template load<(kAhead >= kFarAhead)>(product, 0, static_cast<int>(product.K));
  }
  if (fits) {
    __syncthreads();
    if (warp >= groups) return;
  }
  for (int group = warp;; group += stride) {
    float sums[kOutputs][kRows] = {};
    for (int i0 = 0; i0 < pieces; i0 += kStep) {
      constexpr int kStaged = kColumns / kCount;  // pieces of x that are there at a time
      if (!fits && i0 % kStaged == 0) {
        const int64_t k0 = int64_t{i0} * kCount;
        __syncthreads();
        x.template load<false>(product, k0, static_cast<int>(min(int64_t{kColumns}, product.K - k0)));
        __syncthreads();
      }
      // Registers suffice for two steps of floats; codes of blocks are replaced one by one.
      constexpr bool kWhole = !kAsCodes<T, kRounds>;
      RowPiece<T> now[kOutputs][kAhead];
      const auto take = [&](int s) {
#pragma unroll
        for (int r = 0; r < kOutputs; ++r) now[r][s] = ahead.next[r][s];
      };
      if constexpr (kWhole) {
#pragma unroll
        for (int s = 0; s < kAhead; ++s) take(s);
        ahead.read();
      }
      const int staged = i0 % kStaged;
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        if constexpr (!kWhole) {
          take(s);
          ahead.read(s);
        }
        const int piece = staged + s * kWarp + lane;
        if (i0 + s * kWarp + lane >= pieces) continue;
#pragma unroll
        for (int n = 0; n < kRows; ++n) {
#pragma unroll
          for (int r = 0; r < kOutputs; ++r) sums[r][n] = x.add(now[r][s], n, piece, sums[r][n]);
        }
      }
      if constexpr (!kWhole) ahead.advance();
    }
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) sums[r][n] = warp_sum(sums[r][n]);
      const int64_t row = ahead.row_of(group, r);
      if (lane != 0 || row >= parts.rows) continue;
      const Parts::Part& part = parts.of_row(row);
      const int64_t m = row - part.first_row;
      const float bias = part.bias != nullptr ? part.bias[m] : 0.0f;
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        sums[r][n] += bias;
        if (n < product.N && product.units == 0) product.y[n * product.y_stride + part.first_col + m] = sums[r][n];
      }
    }
    if constexpr (kOutputs == 2) {
#pragma unroll
      for (int n = 0; n < kRows; ++n) {
        if (group >= product.units || lane != 0 || n >= product.N) break;
        product.y[n * product.y_stride + group] = ops::activate<FloatMath>(product.activation, sums[0][n]) * sums[1][n];
      }
    }
    if (group + stride >= groups) return;
  }
}

/// A launch takes these along: rows of floats of the same call, and the norm that forms x.
struct Along {
  Beside beside;
  const RowNorm* norm;  // null: x is there
};

template <class T, int kRows, int kOutputs, bool kRounds, int kAhead = ahead_of(kRows, kOutputs), bool kNorms = false>
void stream_with(const Gpu::Impl& gpu, const Parts& parts, const Product& product, const Along& along) {
  if constexpr (kRows == 1 && !kNorms) {
    if (along.norm != nullptr) {
      return stream_with<T, kRows, kOutputs, kRounds, kAhead, true>(gpu, parts, product, along);
    }
  }
  const Beside& beside = along.beside;
  const int64_t columns = std::min<int64_t>(columns_at_once(kRows, kAsCodes<T, kRounds>), product.K);
  size_t bytes = StagedX<T, kRows, kRounds>::bytes(columns);
  if (kNorms && beside.blocks > 0) bytes = std::max(bytes, static_cast<size_t>(product.K) * sizeof(float));
  const auto kernel = stream_pieces<T, kRows, kOutputs, kRounds, kAhead, kNorms>;
  allow_shared(kernel, bytes);
  int64_t blocks = blocks_of(parts.rows, kStreamThreads / kWarp * kOutputs);
  if (columns == product.K) {
    blocks =
        std::min(blocks, std::max<int64_t>(1, resident_blocks(gpu, kernel, kStreamThreads, bytes) - beside.blocks));
  }
  RowNorm norm = kNorms ? *along.norm : RowNorm{};
  const auto floats = [](int64_t count) { return static_cast<size_t>(count) * sizeof(float); };
  if constexpr (kNorms) {
    norm.early_x = gpu.has_left(norm.x, floats(product.K));
    norm.early_pre = norm.pre != nullptr && gpu.has_left(norm.pre, floats(product.K));
  }
  launch_early(gpu, kernel, dim3(static_cast<unsigned>(blocks + beside.blocks)), kStreamThreads, bytes, parts, product,
               beside, norm);
  gpu.wrote({{product.y, floats(product.N * product.y_stride)},
             {norm.sum, norm.sum != nullptr ? floats(product.K) : 0},
             {norm.normed, kNorms ? floats(product.K) : 0}});
}

/// Two outputs of a warp share what is read of x; where that leaves warps without, each has one. Codes of x are small.
template <class T, int kRows, bool kRounds>
void stream_rows(const Gpu::Impl& gpu, const Parts& parts, const Product& product, const Along& along) {
  if constexpr (kRows <= kUnitRows) {
    if (product.units > 0) return stream_with<T, kRows, 2, kRounds>(gpu, parts, product, along);
  }
  if constexpr (!kAsCodes<T, kRounds> && (kRows <= 4 || !Row<T>::kIsBlocks)) {
    const int64_t warps = int64_t{gpu.multiprocessors} * 2 * (kStreamThreads / kWarp);
    if (parts.rows >= 4 * warps) return stream_with<T, kRows, 2, kRounds>(gpu, parts, product, along);
  }
  if constexpr (kRows == 1) {
    const bool few = parts.rows <= int64_t{gpu.multiprocessors} * (kStreamThreads / kWarp);
    if (few) return stream_with<T, kRows, 1, kRounds, kFarAhead>(gpu, parts, product, along);
  }
  stream_with<T, kRows, 1, kRounds>(gpu, parts, product, along);
}

/// One row, whose norm may have waited for it.
template <class T, bool kRounds>
void stream_row(const Gpu::Impl& gpu, const Parts& parts, const Product& product, const Beside& beside) {
  const std::unique_ptr<const HeldBack> held = gpu.take_held(product.x);
  const auto* const norm = dynamic_cast<const HeldNorm*>(held.get());
  const bool takes = norm != nullptr && norm->rows == 1 && norm->row.width == product.K &&
                     !norm->touches(product.y, static_cast<size_t>(product.y_stride) * sizeof(float)) &&
                     (!kAsCodes<T, kRounds> || product.K % 32 == 0);  // lanes of a block of codes work together
  if (held != nullptr && !takes) held->launch();
  stream_rows<T, 1, kRounds>(gpu, parts, product, {beside, takes ? &norm->row : nullptr});
}

/// N is at most 8, K whole pieces. `floats` are rows of f32 of the same call, beside blocks.
template <class T, bool kRounds>
void stream_in_pieces(const Gpu::Impl& gpu, const Parts& parts, const Product& product, const Parts& floats) {
  const Beside beside = {floats, static_cast<int>(blocks_of(floats.rows, kStreamThreads / kWarp))};
  if (product.N <= 1) return stream_row<T, kRounds>(gpu, parts, product, beside);
  if (product.N <= 2) return stream_rows<T, 2, kRounds>(gpu, parts, product, {beside, nullptr});
  if (product.N <= 4) return stream_rows<T, 4, kRounds>(gpu, parts, product, {beside, nullptr});
  stream_rows<T, 8, kRounds>(gpu, parts, product, {beside, nullptr});
}

constexpr int64_t kFewOutputs = 64, kRowsOfFew = 256;  // of few_outputs

/// A few outputs of some rows, as gates have: a block per row of x, a warp per output at a time. A lane's chain is that
/// of stream_pieces, so a row has the same bits alone.
template <class T, bool kRounds>
__global__ void __launch_bounds__(kStreamThreads) few_outputs(Parts parts, Product product) {
  constexpr int kAhead = 4, kWarps = kStreamThreads / kWarp;
  extern __shared__ float4 shared_x[];
  const StagedFloats<T, 1, kRounds> x(shared_x, static_cast<int>(product.K));
  const int lane = static_cast<int>(threadIdx.x) % kWarp, pieces = static_cast<int>(product.K / Row<T>::kCount);
  product.x += blockIdx.x * product.K;
  product.y += blockIdx.x * product.y_stride;
  product.N = 1;
  await_inputs();
  x.template load<true>(product, 0, static_cast<int>(product.K));
  __syncthreads();
  for (int row = static_cast<int>(threadIdx.x) / kWarp; row < parts.rows; row += kWarps) {
    const Parts::Part& part = parts.of_row(row);
    const int64_t m = row - part.first_row;
    RowReader<T> reader;
    reader.open(part.row(m), product.K);
    float sum = 0;
    for (int i0 = 0; i0 < pieces; i0 += kAhead * kWarp) {
      RowPiece<T> w[kAhead];
      reader.read_step(i0, pieces, w);
#pragma unroll
      for (int s = 0; s < kAhead; ++s) {
        if (i0 + s * kWarp + lane < pieces) sum = x.add(w[s], 0, i0 + s * kWarp + lane, sum);
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) product.y[part.first_col + m] = sum + (part.bias != nullptr ? part.bias[m] : 0.0f);
  }
}

template <class T, bool kRounds>
void multiply_few(const Gpu::Impl& gpu, const Parts& parts, const Product& product) {
  const size_t bytes = StagedFloats<T, 1, kRounds>::bytes(product.K);
  allow_shared(few_outputs<T, kRounds>, bytes);
  launch_early(gpu, few_outputs<T, kRounds>, dim3(static_cast<unsigned>(product.N)), kStreamThreads, bytes, parts,
               product);
}

}  // namespace
}  // namespace carousel::cuda
