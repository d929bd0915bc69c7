// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over panels of 32 output rows. A register tile of R rows of x by V vectors of a panel takes one fused
// multiply-add per element and k, in the order of k; a tile cut along k goes on from what it stored in y. So an element
// has the same bits in any tile, and the tile may be chosen for speed: one row streams the weights once, many rows
// reuse a piece of panel [KC, 32] from the first-level cache and a slab of x [rows, KC] from the second.
#include "carousel/cpu/vec.h"
#include "carousel/ops/linear.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::LinearFwd;
using ops::LinearPart;

constexpr int64_t kPanelRows = Weight::kPanelRows;

// 32 vector registers hold 12 x 2 sums, 2 weights and 1 x; 16 hold 6 x 2, 2 and 1.
#if defined(__AVX512F__)
constexpr int kMaxRows = 12;
#else
constexpr int kMaxRows = 6;
#endif
constexpr int kPanelVecs = static_cast<int>(kPanelRows / kLanes);
/// Vectors across a tile of `rows` rows: as many independent chains as fit in the registers.
constexpr int tile_vecs(int rows) {
  const int wanted = rows == 1 ? 8 : rows == 2 ? 4 : 2;
  return wanted < kPanelVecs ? wanted : kPanelVecs;
}

constexpr int64_t kSlabCols = 256;   // KC: 32 KiB of an f32 panel
constexpr int64_t kSlabRows = 256;   // rows of x whose slab stays in the second-level cache
constexpr int64_t kGroupPanels = 4;  // panels that take turns on one slab of x
constexpr int64_t kFewRows = 64;     // up to here weights are the traffic that counts: each panel is read through
constexpr int64_t kTasksPerThread = 8;
// How far ahead of the tile the panel is asked for: into the next piece of k while many rows are multiplied by this
// one. 8 KiB gains 5 to 20% over none or 2 KiB; 16 KiB is no better.
constexpr int64_t kPrefetchBytes = 8192;

Vec as_float(IntVec bits) {
  Vec v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// How a panel holds its weights: kStep columns of k make a group of 32 cells.
struct F32Panel {
  static constexpr int64_t kStep = 1, kCellBytes = 4;
  template <int kHalf>
  static Vec read(const char* cells) {
    Vec v;
    std::memcpy(&v, cells, sizeof v);
    return v;
  }
};

struct BF16Panel {
  static constexpr int64_t kStep = 2, kCellBytes = 4;
  template <int kHalf>
  static Vec read(const char* cells) {
    IntVec pairs;
    std::memcpy(&pairs, cells, sizeof pairs);
    if (kHalf == 0) return as_float(pairs << 16);
#if defined(__AVX2__) && !defined(__AVX512F__)
    // Two shifts, kept two: their mask would take the register a 6 x 2 tile has no more, and spill four sums.
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
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(cells)));
#elif defined(__AVX2__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(cells)));
#else
    uint16_t half[kLanes];
    std::memcpy(half, cells, sizeof half);
    IntVec bits;
    for (int64_t i = 0; i < kLanes; ++i) bits[i] = half[i];
    const IntVec magnitude = (bits & 0x7FFF) << 13;
    const Vec scaled = as_float(magnitude) * set1(0x1p112f);  // moves the exponent bias, exactly; also of subnormals
    IntVec value;
    std::memcpy(&value, &scaled, sizeof value);
    const IntVec special = (magnitude >= (0x7C00 << 13)) & 0x7F800000;  // infinity and NaN keep the top exponent
    return as_float(value | special | ((bits & 0x8000) << 16));
#endif
  }
};

/// Where a tile's sums come from and go to.
struct TileOut {
  float* sums;       // [R, 32] between two pieces of k, at the tile's first column; null: k is whole
  bool first, last;  // piece of k: start from 0; add the bias and store to y
  float* y;          // [R, y_stride], at the tile's first column
  int64_t y_stride;
  int64_t cols;       // of y that exist, from 1 to V * kLanes
  const float* bias;  // [cols], or null
};

// The sums stay in registers only while no function takes their address: everything that names them is inlined.
#define TILE_INLINE __attribute__((always_inline)) inline

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

template <int R, int V>
TILE_INLINE void load_tile(Vec (&acc)[R][V], const float* y, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = load(y + r * stride + v * kLanes);
  }
}

template <int R, int V>
TILE_INLINE void store_tile(const Vec (&acc)[R][V], float* y, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(y + r * stride + v * kLanes, acc[r][v]);
  }
}

/// The last piece of a tile: plus bias, to y. A tile wider than what is left of y goes there element by element.
template <int R, int V>
TILE_INLINE void finish_tile(Vec (&acc)[R][V], const TileOut& out) {
  constexpr int64_t kWidth = V * kLanes;
  if (out.cols == kWidth) {
    if (out.bias != nullptr) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const Vec bias = load(out.bias + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) acc[r][v] += bias;
      }
    }
    return store_tile(acc, out.y, out.y_stride);
  }
  float edge[R * kWidth];
  store_tile(acc, edge, kWidth);
  for (int64_t r = 0; r < R; ++r) {
    for (int64_t i = 0; i < out.cols; ++i) {
      out.y[r * out.y_stride + i] = edge[r * kWidth + i] + (out.bias != nullptr ? out.bias[i] : -0.0f);
    }
  }
}

/// One tile over `count` columns of k.
///   x [count, R]   cells: the panel from its column k and the tile's first output row on
template <class Panel, int R>
void tile(const float* x, const char* cells, int64_t count, const TileOut& out) {
  constexpr int V = tile_vecs(R);
  Vec acc[R][V] = {};
  if (!out.first) load_tile(acc, out.sums, kPanelRows);
  for (; count >= Panel::kStep; count -= Panel::kStep) {
#pragma GCC unroll 2
    for (int64_t line = 0; line < kPanelRows * Panel::kCellBytes; line += 64) {
      __builtin_prefetch(cells + kPrefetchBytes + line, 0, 3);
    }
    step<Panel, 0>(acc, x, cells);
    if constexpr (Panel::kStep == 2) step<Panel, 1>(acc, x + R, cells);
    x += Panel::kStep * R;
    cells += kPanelRows * Panel::kCellBytes;
  }
  if (Panel::kStep == 2 && count == 1) step<Panel, 0>(acc, x, cells);
  if (out.last) {
    finish_tile(acc, out);
  } else {
    store_tile(acc, out.sums, kPanelRows);
  }
}

using TileFn = void (*)(const float* x, const char* cells, int64_t count, const TileOut& out);

template <class Panel>
TileFn tile_of(int64_t rows) {
  switch (rows) {
    case 1:
      return tile<Panel, 1>;
    case 2:
      return tile<Panel, 2>;
    case 3:
      return tile<Panel, 3>;
    case 4:
      return tile<Panel, 4>;
    case 5:
      return tile<Panel, 5>;
#if defined(__AVX512F__)
    case 7:
      return tile<Panel, 7>;
    case 8:
      return tile<Panel, 8>;
    case 9:
      return tile<Panel, 9>;
    case 10:
      return tile<Panel, 10>;
    case 11:
      return tile<Panel, 11>;
    case 12:
      return tile<Panel, 12>;
#endif
    default:
      return tile<Panel, 6>;
  }
}

TileFn tile_of(DType dtype, int64_t rows) {
  if (dtype == DType::kF32) return tile_of<F32Panel>(rows);
  if (dtype == DType::kF16) return tile_of<F16Panel>(rows);
  return tile_of<BF16Panel>(rows);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

/// How a call is cut. Only the order of the work depends on it.
struct Plan {
  int64_t blocks;        // of rows, at most kMaxRows each and even in size
  int64_t slabs;         // of row blocks
  int64_t panels;        // of all parts, in one list
  int64_t panel_tasks;   // pieces of that list
  int64_t group_panels;  // panels between two steps along k
  int64_t slab_cols;     // KC
};

Plan plan_of(const LinearFwd& a, int threads) {
  Plan plan;
  plan.blocks = ceil_div(a.N, kMaxRows);
  plan.slabs = ceil_div(plan.blocks, kSlabRows / kMaxRows);
  plan.panels = 0;
  for (int64_t i = 0; i < a.part_count; ++i) plan.panels += ceil_div(a.parts[i].rows, kPanelRows);
  const int64_t enough_tasks = least(plan.panels, ceil_div(threads * kTasksPerThread, plan.slabs));
  if (a.N <= kFewRows) {
    plan.group_panels = 1;
    plan.panel_tasks = enough_tasks;
  } else {
    plan.group_panels = kGroupPanels;
    const int64_t groups = ceil_div(plan.panels, kGroupPanels);
    plan.panel_tasks = groups > enough_tasks ? groups : enough_tasks;
  }
  const bool one_tile = plan.blocks == 1 && tile_vecs(static_cast<int>(a.N)) == kPanelVecs;
  plan.slab_cols = one_tile ? a.K : kSlabCols;
  return plan;
}

/// Row block b: rows first to first + rows; packed as [K, rows] at x's offset first * K.
struct RowBlock {
  int64_t first, rows;
};
RowBlock row_block(const LinearFwd& a, const Plan& plan, int64_t b) {
  const int64_t first = b * a.N / plan.blocks;
  return {first, (b + 1) * a.N / plan.blocks - first};
}

/// Row blocks first_block to last_block.
struct Slab {
  int64_t first_block, last_block;
};

/// Columns begin to end of one row block, from rows to tile order.
void pack_block(const LinearFwd& a, const RowBlock& block, int64_t begin, int64_t end) {
  const float* const x = a.x + block.first * a.K;
  float* const packed = a.packed + block.first * a.K;
  for (int64_t k = begin; k < end; ++k) {
    for (int64_t r = 0; r < block.rows; ++r) packed[k * block.rows + r] = x[r * a.K + k];
  }
}

void pack_rows(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  const int64_t pieces = ceil_div(a.K, 1024);
  parallel_for(*stream.pool, plan.blocks * pieces, [&](int64_t i) {
    const int64_t piece = i % pieces;
    pack_block(a, row_block(a, plan, i / pieces), piece * a.K / pieces, (piece + 1) * a.K / pieces);
  });
}

/// One panel of the list, found in its part.
struct FoundPanel {
  const LinearPart* part;
  int64_t first_row;  // of the part
  int64_t rows;       // up to 32
  const char* cells;  // at k = 0
};

FoundPanel panel_at(const LinearFwd& a, int64_t index) {
  const LinearPart* part = a.parts;
  for (; index >= ceil_div(part->rows, kPanelRows); ++part) index -= ceil_div(part->rows, kPanelRows);
  const int64_t first_row = index * kPanelRows;
  const int64_t padded_cols = part->dtype == DType::kBF16 ? a.K + a.K % 2 : a.K;
  const int64_t panel_bytes = padded_cols * kPanelRows * element_bytes(part->dtype);
  return {part, first_row, least(part->rows - first_row, kPanelRows),
          static_cast<const char*>(part->panels) + index * panel_bytes};
}

/// Columns k to k + count of one panel, times the slab's row blocks.
///   sums [rows of the slab, 32] of this panel
void multiply_panel(const LinearFwd& a, const Plan& plan, const FoundPanel& panel, int64_t k, int64_t count,
                    const Slab& slab, float* sums) {
  const DType dtype = panel.part->dtype;
  const int64_t cell_bytes = dtype == DType::kF16 ? 2 : 4;
  const char* const cells = panel.cells + k * kPanelRows * element_bytes(dtype);
  const float* const x = a.N == 1 ? a.x : a.packed;
  const RowBlock first = row_block(a, plan, slab.first_block);
  const int64_t width = tile_vecs(static_cast<int>(first.rows)) * kLanes;
  for (int64_t col = 0; col < panel.rows; col += width) {
    TileOut out;
    out.first = k == 0;
    out.last = k + count == a.K;
    out.y_stride = a.y_stride;
    out.cols = least(panel.rows - col, width);
    out.bias = panel.part->bias != nullptr ? panel.part->bias + panel.first_row + col : nullptr;
    for (int64_t b = slab.first_block; b < slab.last_block; ++b) {
      const RowBlock block = row_block(a, plan, b);
      out.sums = sums + (block.first - first.first) * kPanelRows + col;
      out.y = a.y + block.first * a.y_stride + panel.part->first_col + panel.first_row + col;
      tile_of(dtype, block.rows)(x + block.first * a.K + k * block.rows, cells + col * cell_bytes, count, out);
    }
  }
}

void run_task(const LinearFwd& a, const Plan& plan, int64_t slab_index, int64_t task) {
  float sums[kGroupPanels * (kSlabRows + kMaxRows) *
             kPanelRows];  // in the second-level cache; y's rows may collide there
  const Slab slab = {slab_index * plan.blocks / plan.slabs, (slab_index + 1) * plan.blocks / plan.slabs};
  const int64_t last_panel = (task + 1) * plan.panels / plan.panel_tasks;
  for (int64_t group = task * plan.panels / plan.panel_tasks; group < last_panel; group += plan.group_panels) {
    const int64_t group_end = least(group + plan.group_panels, last_panel);
    for (int64_t k = 0; k < a.K; k += plan.slab_cols) {
      const int64_t count = least(plan.slab_cols, a.K - k);
      for (int64_t index = group; index < group_end; ++index) {
        float* const panel_sums = sums + (index - group) * (kSlabRows + kMaxRows) * kPanelRows;
        multiply_panel(a, plan, panel_at(a, index), k, count, slab, panel_sums);
      }
    }
  }
}

}  // namespace

void linear_fwd(const Stream& stream, const LinearFwd& a) {
  const Plan plan = plan_of(a, stream.pool->threads());
  if (a.N > 1) pack_rows(stream, a, plan);
  parallel_for(*stream.pool, plan.slabs * plan.panel_tasks,
               [&](int64_t i) { run_task(a, plan, i / plan.panel_tasks, i % plan.panel_tasks); });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
