// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of 32 output rows of floats. A register tile of R rows of x by V vectors of a panel takes
// one fused multiply-add per element and k, in the order of k. How the work is cut is in linear_tiles_cpu.h.
#include "carousel/cpu/transpose.h"
#include "carousel/ops/linear/linear_tiles_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

// 32 vector registers hold 12 x 2 sums, 2 weights and 1 x; 16 hold 6 x 2, 2 and 1.
#if defined(__AVX512F__)
constexpr int kMaxRows = 12;
#else
constexpr int kMaxRows = 6;
#endif
/// Vectors across a tile of `rows` rows: as many independent chains as fit in the registers.
constexpr int tile_vecs(int rows) {
  const int wanted = rows == 1 ? 8 : rows == 2 ? 4 : 2;
  return wanted < kPanelVecs ? wanted : kPanelVecs;
}

// How a panel holds its weights: kStep columns of k make a group of 32 cells.
struct F32Panel {
  static constexpr int64_t kStep = 1, kCellBytes = 4;
  template <int kHalf>
  static Vec read(const char* cells) {
    return as_float(load_int(cells));
  }
};

struct BF16Panel {
  static constexpr int64_t kStep = 2, kCellBytes = 4;
  template <int kHalf>
  static Vec read(const char* cells) {
    IntVec pairs = load_int(cells);
    if (kHalf == 0) return as_float(pairs << 16);
#if defined(__AVX2__) && !defined(__AVX512F__)
    // Two shifts, which must stay two: a mask would need a register more than a 6 x 2 tile leaves, and spill four sums.
    pairs >>= 16;
    asm("" : "+x"(pairs));
    return as_float(pairs << 16);
#else
    return as_float(pairs & static_cast<int32_t>(0xFFFF0000));
#endif
  }
};

struct F16Panel {
  static constexpr int64_t kStep = 1, kCellBytes = 2;
  template <int kHalf>
  static Vec read(const char* cells) {
    return load_f16(cells);
  }
};

/// acc[r][v] += x[k][r] * panel[k][v] for one column k.
template <class Panel, int kHalf, int R, int V>
TILE_INLINE void step(Vec (&acc)[R][V], const float* x, const char* cells) {
  Vec w[V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) w[v] = Panel::template read<kHalf>(cells + v * kLanes * Panel::kCellBytes);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Vec x_r = set1(x[r]);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = fma(x_r, w[v], acc[r][v]);
  }
}

/// One tile over `count` columns of k.
///   x [count, R]   cells: the panel from its column k and the tile's first output row on
template <class Panel, int R>
TILE_INLINE void tile(const float* x, const char* cells, int64_t count, int64_t ahead, const TileOut& out) {
  constexpr int V = tile_vecs(R);
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  for (; count >= Panel::kStep; count -= Panel::kStep) {
#pragma GCC unroll 2
    for (int64_t line = 0; line < kPanelRows * Panel::kCellBytes; line += 64) {
      prefetch_near(cells + ahead + line);
    }
    step<Panel, 0>(acc, x, cells);
    if constexpr (Panel::kStep == 2) step<Panel, 1>(acc, x + R, cells);
    x += Panel::kStep * R;
    cells += kPanelRows * Panel::kCellBytes;
  }
  if (Panel::kStep == 2 && count == 1) step<Panel, 0>(acc, x, cells);
  leave_tile(acc, out);
}

template <class Panel, int R>
void tiles(const char* x, const char* cells, int64_t count, const Run& run, const TileOut& out) {
  for_blocks<R>(x, run, out, [&](const char* block, const TileOut& to) CAROUSEL_INLINE_LAMBDA {
    tile<Panel, R>(reinterpret_cast<const float*>(block), cells, count, run.ahead, to);
  });
}

using TilesFn = void (*)(const char* x, const char* cells, int64_t count, const Run& run, const TileOut& out);

template <class Panel>
TilesFn tiles_of(int64_t rows) {
  return for_rows<kMaxRows>(rows, [](auto r) -> TilesFn { return tiles<Panel, r.kValue>; });
}

TilesFn tiles_of(DType dtype, int64_t rows) {
  if (dtype == DType::kF32) return tiles_of<F32Panel>(rows);
  if (dtype == DType::kF16) return tiles_of<F16Panel>(rows);
  return tiles_of<BF16Panel>(rows);
}

#if defined(__AVX512F__)
/// Packs `count` columns, whole vectors of them, of at most kLanes rows: a square block is transposed in registers.
void pack_columns(const float* x, int64_t stride, int64_t rows, int64_t count, float* packed) {
  for (int64_t k = 0; k < count; k += kLanes, packed += kLanes * rows) {
    Vec block[kLanes];
#pragma GCC unroll 16
    for (int64_t r = 0; r < kLanes; ++r) {
      if (r < rows) prefetch_near(x + r * stride + k + 4 * kLanes);
      block[r] = r < rows ? load(x + r * stride + k) : Vec{};
    }
    transpose(block);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kLanes; ++i) store_partial(packed + i * rows, block[i], rows);
  }
}
#endif

struct FloatEngine {
  static constexpr int kMaxRows = CAROUSEL_ISA::kMaxRows;
  static constexpr int64_t kSlabCols = 256;        // 32 KiB of an f32 panel
  static constexpr int64_t kPrefetchBytes = 8192;  // gains 5 to 20% over none or 2 KiB; 16 KiB is no better
  static constexpr int tile_vecs(int rows) { return CAROUSEL_ISA::tile_vecs(rows); }
  static int64_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
  static int64_t column_bytes(DType dtype, int64_t k) {
    return (dtype == DType::kBF16 ? k + k % 2 : k) * kPanelRows * element_bytes(dtype);
  }
  static const char* cells(const FoundPanel& panel, int64_t k) {
    return panel.bytes + column_bytes(panel.part->dtype, k);
  }
  // x is packed as [K, rows of the block].
  static void tiles(const LinearFwd& a, const FoundPanel& panel, const RowBlock& block, int64_t k, int64_t col,
                    int64_t count, Run run, const TileOut& out) {
    const DType dtype = panel.part->dtype;
    const int64_t cell_bytes = dtype == DType::kF16 ? 2 : 4;
    const float* const x =
        (a.N == 1 && a.x != nullptr && !a.transposed ? a.x : a.packed) + block.first * a.K + k * block.rows;
    run.x_step = block.rows * a.K * 4;
    tiles_of(dtype, block.rows)(reinterpret_cast<const char*>(x), cells(panel, k) + col * cell_bytes, count, run, out);
  }
  static void pack(const LinearFwd& a, const RowBlock& block, const float* x, int64_t stride, int64_t begin,
                   int64_t end) {
    float* packed = a.packed + block.first * a.K + begin * block.rows;
#if defined(__AVX512F__)
    if (block.rows > 2) {
      const int64_t whole = (end - begin) / kLanes * kLanes;
      pack_columns(x, stride, block.rows, whole, packed);
      x += whole;
      packed += whole * block.rows;
      end -= whole;
    }
#endif
    for (const float* const x_end = x + (end - begin); x < x_end; ++x) {
      for (int64_t r = 0; r < block.rows; ++r) *packed++ = x[r * stride];
    }
  }
};

/// Packs columns begin to end of a block of rows, from x given as [K, N].
void pack_transposed(const LinearFwd& a, const RowBlock& block, int64_t begin, int64_t end) {
  float* packed = a.packed + block.first * a.K + begin * block.rows;
  const float* x = a.x + begin * a.x_stride + block.first;
  for (int64_t k = begin; k < end; ++k, x += a.x_stride, packed += block.rows) {
    for (int64_t r = 0; r < block.rows; ++r) packed[r] = x[r];
  }
}

void pack_rows(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  const int64_t pieces = ceil_div(a.K, 1024), stride = a.x_stride != 0 ? a.x_stride : a.K;
  parallel_for(*stream.pool, plan.blocks * pieces, [&](int64_t i) {
    const RowBlock block = row_block(plan, i / pieces);
    const int64_t begin = i % pieces * a.K / pieces, end = (i % pieces + 1) * a.K / pieces;
    if (a.transposed) return pack_transposed(a, block, begin, end);
    FloatEngine::pack(a, block, a.x + block.first * stride + begin, stride, begin, end);
  });
}

}  // namespace

void linear_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of<FloatEngine>(a, stream.pool->threads());
  if (a.x != nullptr && (a.N > 1 || a.transposed)) pack_rows(stream, a, plan);
  run_products<FloatEngine>(stream, a, plan);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
