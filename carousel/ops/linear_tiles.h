// SPDX-License-Identifier: Apache-2.0
// How products over panels are cut, shared by their kernels (linear_cpu.cc, linear_quant_cpu.cc, linear_bf16_cpu.cc):
// one row streams the weights once; many rows reuse a piece of panel [KC, 32] from the first-level cache and a slab of
// x [rows, KC] from the second. A tile cut along k goes on from what it stored, so an element's chain over k, and with
// it its bits, is the same in any cut, which may therefore be chosen for speed. Included by *_cpu.cc files only.
//
// An Engine knows one way to multiply:
//   kMaxRows                      rows of x a tile takes at most
//   kSlabCols                     KC, columns between two steps along k
//   tile_vecs(rows)               vectors across a tile of that many rows
//   panel_bytes(a, dtype)         of a whole panel
//   tile(a, panel, block, k, col, count, out)  columns k to k + count of a panel, from its output row `col` on, times a
//                                 block of rows
#pragma once

#include "carousel/cpu/vec.h"
#include "carousel/ops/linear.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::LinearFwd;
using ops::LinearPart;

constexpr int64_t kPanelRows = Weight::kPanelRows;
constexpr int kPanelVecs = static_cast<int>(kPanelRows / kLanes);

constexpr int64_t kSlabRows = 256;   // rows of x whose slab stays in the second-level cache
constexpr int64_t kGroupPanels = 4;  // panels that take turns on one slab of x
constexpr int64_t kFewRows = 64;     // up to here weights are the traffic that counts: each panel is read through
constexpr int64_t kTasksPerThread = 8;

// The sums of a tile stay in registers only while no function takes their address: everything that names them is
// inlined.
#define TILE_INLINE __attribute__((always_inline)) inline

/// Where a tile's sums come from and go to.
struct TileOut {
  float* sums;       // [R, 32] between two pieces of k, at the tile's first column; null: k is whole
  bool first, last;  // piece of k: start from 0; add the bias and store to y
  float* y;          // [R, y_stride], at the tile's first column
  int64_t y_stride;
  int64_t cols;       // of y that exist, from 1 to V * kLanes
  const float* bias;  // [cols], or null
};

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

/// After one piece of k.
template <int R, int V>
TILE_INLINE void leave_tile(Vec (&acc)[R][V], const TileOut& out) {
  if (out.last) {
    finish_tile(acc, out);
  } else {
    store_tile(acc, out.sums, kPanelRows);
  }
}

/// How many rows a tile has, as a type.
template <int R>
struct Rows {
  static constexpr int kValue = R;
};

/// f(Rows<rows>), rows from 1 to kMost.
template <int kMost, class F>
auto for_rows(int64_t rows, const F& f) {
  if constexpr (kMost == 1) {
    return f(Rows<1>());
  } else {
    return rows == kMost ? f(Rows<kMost>()) : for_rows<kMost - 1>(rows, f);
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// How a call is cut. Only the order of the work depends on it.
struct Plan {
  int64_t blocks;        // of rows, at most kMaxRows each and even in size
  int64_t slabs;         // of row blocks
  int64_t panels;        // of all parts, in one list
  int64_t panel_tasks;   // pieces of that list
  int64_t group_panels;  // panels between two steps along k
  int64_t slab_cols;     // KC
};

template <class Engine>
Plan plan_of(const LinearFwd& a, int threads) {
  Plan plan;
  plan.blocks = ceil_div(a.N, Engine::kMaxRows);
  plan.slabs = ceil_div(plan.blocks, kSlabRows / Engine::kMaxRows);
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
  const bool one_tile = plan.blocks == 1 && Engine::tile_vecs(static_cast<int>(a.N)) == kPanelVecs;
  plan.slab_cols = one_tile ? a.K : Engine::kSlabCols;
  return plan;
}

/// Row block b: rows first to first + rows. x is packed block by block.
struct RowBlock {
  int64_t first, rows;
};
inline RowBlock row_block(const LinearFwd& a, const Plan& plan, int64_t b) {
  const int64_t first = b * a.N / plan.blocks;
  return {first, (b + 1) * a.N / plan.blocks - first};
}

/// Row blocks first_block to last_block.
struct Slab {
  int64_t first_block, last_block;
};

/// One panel of the list, found in its part.
struct FoundPanel {
  const LinearPart* part;
  int64_t first_row;  // of the part
  int64_t rows;       // up to 32
  const char* bytes;
};

template <class Engine>
FoundPanel panel_at(const LinearFwd& a, int64_t index) {
  const LinearPart* part = a.parts;
  for (; index >= ceil_div(part->rows, kPanelRows); ++part) index -= ceil_div(part->rows, kPanelRows);
  const int64_t first_row = index * kPanelRows;
  return {part, first_row, least(part->rows - first_row, kPanelRows),
          static_cast<const char*>(part->panels) + index * Engine::panel_bytes(a, part->dtype)};
}

/// Columns k to k + count of one panel, times the slab's row blocks.
///   sums [rows of the slab, 32] of this panel
template <class Engine>
void multiply_panel(const LinearFwd& a, const Plan& plan, const FoundPanel& panel, int64_t k, int64_t count,
                    const Slab& slab, float* sums) {
  const RowBlock first = row_block(a, plan, slab.first_block);
  const int64_t width = Engine::tile_vecs(static_cast<int>(first.rows)) * kLanes;
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
      Engine::tile(a, panel, block, k, col, count, out);
    }
  }
}

template <class Engine>
void run_task(const LinearFwd& a, const Plan& plan, int64_t slab_index, int64_t task) {
  constexpr int64_t kPanelSums = (kSlabRows + Engine::kMaxRows) * kPanelRows;
  float sums[kGroupPanels * kPanelSums];  // in the second-level cache; y's rows may collide there
  const Slab slab = {slab_index * plan.blocks / plan.slabs, (slab_index + 1) * plan.blocks / plan.slabs};
  const int64_t last_panel = (task + 1) * plan.panels / plan.panel_tasks;
  for (int64_t group = task * plan.panels / plan.panel_tasks; group < last_panel; group += plan.group_panels) {
    const int64_t group_end = least(group + plan.group_panels, last_panel);
    for (int64_t k = 0; k < a.K; k += plan.slab_cols) {
      const int64_t count = least(plan.slab_cols, a.K - k);
      for (int64_t index = group; index < group_end; ++index) {
        multiply_panel<Engine>(a, plan, panel_at<Engine>(a, index), k, count, slab,
                               sums + (index - group) * kPanelSums);
      }
    }
  }
}

/// The products of a call whose x is packed.
template <class Engine>
void run_products(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  parallel_for(*stream.pool, plan.slabs * plan.panel_tasks,
               [&](int64_t i) { run_task<Engine>(a, plan, i / plan.panel_tasks, i % plan.panel_tasks); });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
