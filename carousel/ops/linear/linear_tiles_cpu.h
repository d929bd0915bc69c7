// SPDX-License-Identifier: Apache-2.0
// How products over panels are cut, shared by their kernels (linear_cpu.cc, linear_quant_cpu.cc, linear_bf16_cpu.cc):
// one row streams the weights once; many rows reuse a piece of panel [KC, 32] from the first-level cache and a slab of
// x [rows, KC] from the second. A tile cut along k goes on from what it stored, so an element's chain over k, and with
// it its bits, is the same in any cut, which may therefore be chosen for speed. Included by *_cpu.cc files only.
//
//   task: a slab of up to kSlabRows rows of x, and a range of panels     any thread claims it
//     group: kGroupPanels panels of the range                           they take turns on the slab
//       step: kSlabCols columns of k                                    the second level keeps the slab's part of it
//         piece: one panel's part of the step, [KC, 32]                 the first level keeps it for all rows
//           tiles side by side: tile_vecs vectors of the 32 each
//             tile: a block of up to kMaxRows rows                      sums in registers over all KC columns, and in
//                                                                       [slab rows, 32] between two steps
//
// An Engine knows one way to multiply:
//   kMaxRows                      rows of x a tile takes at most
//   kSlabCols                     KC, columns between two steps along k
//   tile_vecs(rows)               vectors across a tile of that many rows
//   column_bytes(dtype, k)        of a panel's first k columns
//   cells(panel, k)               where column k of a panel begins
//   kPrefetchBytes                how far ahead of a tile its panel is prefetched while it is read on
//   tiles(a, panel, block, k, col, count, run, out)  columns k to k + count of a panel, from its output row `col` on,
//                                 times the row blocks of `run`, the first of which is `block`
//   widen(panel, k, count, out)   optional, with kWidenedBytes and widens(dtype, blocks): brings a piece of panel that
//                                 many blocks of rows multiply into a form that is quicker to read
//   pack(a, block, x, stride, begin, end)  packs columns begin to end of a block of rows for the tiles. x is the first
//                                 element, rows are `stride` apart, begin is a multiple of kPanelRows
#pragma once

#include "carousel/cpu/matmul.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/gate/gate_values_cpu.h"
#include "carousel/ops/linear/linear_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::kFewRows;
using ops::LinearFwd;
using ops::LinearPart;

constexpr int64_t kPanelRows = Weight::kPanelRows;
constexpr int kPanelVecs = static_cast<int>(kPanelRows / kLanes);

constexpr int64_t kSlabRows = 256;   // rows of x in a slab, which the second-level cache keeps
constexpr int64_t kGroupPanels = 4;  // panels that take turns on one slab of x

// The sums of a tile stay in registers only while no function takes their address: everything that names them is
// inlined.
#define TILE_INLINE CAROUSEL_INLINE

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// Where a tile reads its sums from and stores them to.
struct TileOut {
  float* sums;       // [R, 32] the sums between two pieces of k, at the tile's first column
  bool first, last;  // the first piece of k starts from 0; the last one adds the bias and stores to y
  float* y;          // [R, y_stride], at the tile's first column
  int64_t y_stride;
  int64_t cols;       // columns of y that exist, from 1 to V * kLanes
  const float* bias;  // [cols], or null
};

/// Prefetches the rows of y that the next tile writes.
inline void prefetch_outputs(float* y, int64_t rows, int64_t stride, int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < cols; i += kLineFloats) prefetch_write(y + r * stride + i);
  }
}

/// Tiles over one piece of a panel, one block of rows after the other. Only additions stand between two tiles, so a
/// core begins the next one while the last one ends.
struct Run {
  int64_t blocks;     // blocks of rows, all of one size
  int64_t x_step;     // bytes of packed x from block to block
  int64_t ahead;      // bytes from what a tile reads of the panel to what it prefetches meanwhile
  LinesAhead* later;  // fetched between the tiles
};

/// Calls tile(x, out) for each block of R rows.
template <int R, class Tile>
TILE_INLINE void for_blocks(const char* x, const Run& run, TileOut out, const Tile& tile) {
  for (int64_t b = 0; b < run.blocks; ++b) {
    if (run.later->lines > 0) run.later->fetch();
    if (out.last && b + 1 < run.blocks) prefetch_outputs(out.y + R * out.y_stride, R, out.y_stride, out.cols);
    tile(x, out);
    x += run.x_step;
    out.sums += R * kPanelRows;
    out.y += R * out.y_stride;
  }
}

/// After the last piece of k: adds the bias and stores to y. A tile wider than the rest of y is stored by element.
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

/// Stores the sums after a piece of k: to y after the last piece, else to out.sums.
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

/// Calls f(Rows<rows>), rows from 1 to kMost.
template <int kMost, class F>
auto for_rows(int64_t rows, const F& f) {
  if constexpr (kMost == 1) {
    return f(Rows<1>());
  } else {
    return rows == kMost ? f(Rows<kMost>()) : for_rows<kMost - 1>(rows, f);
  }
}

/// A list of panels, or of pairs of panels, cut into tasks that are claimed in order: `threads` equal tasks of a share
/// of the list, then as many of the same share of its rest, and so on. Threads read long streams at first, and end at
/// the same time.
struct Cuts {
  int64_t panels, threads;
  int64_t most;  // most panels of a task
};
struct PanelRange {
  int64_t first, last;
};
inline int64_t share_of(const Cuts& cuts, int64_t first) {
  return least(cuts.most, (cuts.panels - first) * 3 / (4 * cuts.threads));
}
/// Task `task`; past the end it is empty.
inline PanelRange task_range(const Cuts& cuts, int64_t task) {
  for (int64_t first = 0;; task -= cuts.threads) {
    const int64_t share = share_of(cuts, first);
    if (share <= 1) return {least(first + task, cuts.panels), least(first + task + 1, cuts.panels)};
    if (task < cuts.threads) return {first + task * share, first + (task + 1) * share};
    first += cuts.threads * share;
  }
}
inline int64_t task_count(const Cuts& cuts) {
  int64_t first = 0, tasks = 0;
  for (;; tasks += cuts.threads) {
    const int64_t share = share_of(cuts, first);
    if (share <= 1) return tasks + cuts.panels - first;
    first += cuts.threads * share;
  }
}

/// How a call is cut. Only the order of the work depends on it.
struct Plan {
  int64_t blocks;      // blocks of rows, of at most kMaxRows rows each
  int64_t block_rows;  // rows of a block; the first `longer` blocks have one more
  int64_t longer;
  int64_t slabs;         // slabs of row blocks
  int64_t step;          // panels that need each other: 2 for gated units, else 1
  Cuts cuts;             // the panels of all parts, in one list, `step` at a time
  int64_t tasks;         // tasks of a slab
  int64_t group_panels;  // panels between two steps along k
  int64_t slab_cols;     // KC
};

template <class Engine>
Plan plan_of(const LinearFwd& a, int threads) {
  Plan plan;
  plan.blocks = ceil_div(a.N, Engine::kMaxRows);
  plan.block_rows = a.N / plan.blocks;
  plan.longer = a.N % plan.blocks;
  plan.slabs = ceil_div(plan.blocks, ceil_div(kSlabRows, Engine::kMaxRows));
  int64_t panels = 0;
  for (int64_t i = 0; i < a.part_count; ++i) panels += ceil_div(a.parts[i].rows, kPanelRows);
  plan.step = a.next != nullptr ? 2 : 1;
  plan.group_panels = a.N <= kFewRows ? 1 : kGroupPanels;
  plan.cuts = {panels / plan.step, threads, a.N <= kFewRows ? panels : kGroupPanels / plan.step};
  plan.tasks = task_count(plan.cuts);
  // With few panels there are more slabs, so that every thread has work.
  const int64_t wanted = least(plan.blocks, ceil_div(4 * threads, plan.tasks));
  if (a.N > kFewRows && plan.slabs < wanted) plan.slabs = wanted;
  const bool one_tile = plan.blocks == 1 && Engine::tile_vecs(static_cast<int>(a.N)) == kPanelVecs;
  plan.slab_cols = one_tile ? a.K : Engine::kSlabCols;
  return plan;
}

/// Row block b: rows first to first + rows. x is packed block by block.
struct RowBlock {
  int64_t first, rows;
};
inline RowBlock row_block(const Plan& plan, int64_t b) {
  return {b * plan.block_rows + least(b, plan.longer), plan.block_rows + (b < plan.longer ? 1 : 0)};
}

/// Row blocks first_block to last_block.
struct Slab {
  int64_t first_block, last_block;
};

/// One panel of the list, found in its part.
struct FoundPanel {
  const LinearPart* part;
  int64_t first_row;  // its first output row within the part
  int64_t rows;       // up to 32
  const char* bytes;
  const char* widened = nullptr;  // the piece that is multiplied, as the engine widened it; null: as it is
};

template <class Engine>
FoundPanel panel_at(const LinearFwd& a, int64_t index) {
  const LinearPart* part = a.parts;
  if (a.next != nullptr) {  // gate and up take turns
    part += index % 2;
    index /= 2;
  }
  for (; index >= ceil_div(part->rows, kPanelRows); ++part) index -= ceil_div(part->rows, kPanelRows);
  const int64_t first_row = index * kPanelRows;
  return {part, first_row, least(part->rows - first_row, kPanelRows),
          static_cast<const char*>(part->panels) + index * Engine::column_bytes(part->dtype, a.K)};
}

/// A piece of a panel: its columns k to k + count.
struct Piece {
  FoundPanel panel;
  int64_t k, count;
};

/// Bytes of a task's first panel that are prefetched before its products.
constexpr int64_t kStartBytes = 4096;

/// The sums of a panel from where y has them, so that its chains go on from there.
inline void read_sums(const LinearFwd& a, const Plan& plan, const FoundPanel& panel, const Slab& slab, float* sums) {
  const RowBlock first = row_block(plan, slab.first_block), last = row_block(plan, slab.last_block - 1);
  const float* y = a.y + first.first * a.y_stride + panel.part->first_col + panel.first_row;
  for (int64_t r = first.first; r < last.first + last.rows; ++r, y += a.y_stride, sums += kPanelRows) {
    for (int64_t i = 0; i < kPanelRows; ++i) sums[i] = i < panel.rows ? y[i] : 0.0f;
  }
}

/// Multiplies one piece with the slab's row blocks.
///   sums [rows of the slab, 32] of this panel
///   soon: the next piece, which the last row block prefetches; null: the panel is read on
template <class Engine>
void multiply_piece(const LinearFwd& a, const Plan& plan, const Piece& piece, const Slab& slab, float* sums,
                    const char* soon, LinesAhead& later) {
  const FoundPanel& panel = piece.panel;
  const RowBlock first = row_block(plan, slab.first_block);
  const int64_t width = Engine::tile_vecs(static_cast<int>(first.rows)) * kLanes;
  if (a.adds && piece.k == 0) read_sums(a, plan, panel, slab, sums);
  for (int64_t col = 0; col < panel.rows; col += width) {
    TileOut out;
    out.first = piece.k == 0 && !a.adds;
    out.last = piece.k + piece.count == a.K;
    out.cols = least(panel.rows - col, width);
    out.bias = panel.part->bias != nullptr ? panel.part->bias + panel.first_row + col : nullptr;
    for (int64_t b = slab.first_block, end; b < slab.last_block; b = end) {
      end = b < plan.longer ? least(plan.longer, slab.last_block) : slab.last_block;
      const bool at_end = soon != nullptr && b + 1 == slab.last_block;
      if (soon != nullptr && !at_end && end == slab.last_block) --end;
      const RowBlock block = row_block(plan, b);
      out.sums = sums + (block.first - first.first) * kPanelRows + col;
      out.y =
          a.next != nullptr ? out.sums : a.y + block.first * a.y_stride + panel.part->first_col + panel.first_row + col;
      out.y_stride = a.next != nullptr ? kPanelRows : a.y_stride;
      Run run = {end - b, 0, Engine::kPrefetchBytes, &later};
      if (soon != nullptr) run.ahead = at_end ? soon - Engine::cells(panel, piece.k) : 0;
      Engine::tiles(a, panel, block, piece.k, col, piece.count, run, out);
    }
  }
}

/// A group of panels. Its pieces are taken in this order: the panels take turns on columns of x.
struct Group {
  int64_t first, end;  // panels of the list
  int64_t slab_cols;
};
template <class Engine>
Piece piece_at(const LinearFwd& a, const Group& group, int64_t index) {
  const int64_t panels = group.end - group.first, k = index / panels * group.slab_cols;
  return {panel_at<Engine>(a, group.first + index % panels), k, least(group.slab_cols, a.K - k)};
}

/// For pairs of panels whose sums are complete: computes the units and packs them for the next product.
template <class Engine>
void leave_units(const LinearFwd& a, const Plan& plan, const Slab& slab, const Group& group, float* sums,
                 int64_t panel_sums) {
  const RowBlock first = row_block(plan, slab.first_block), last = row_block(plan, slab.last_block - 1);
  const int64_t rows = last.first + last.rows - first.first;
  for (int64_t i = group.first; i < group.end; i += 2, sums += 2 * panel_sums) {
    const FoundPanel panel = panel_at<Engine>(a, i);
    if (panel.rows == kPanelRows) {
      gate_values(a.activation, sums, sums + panel_sums, sums, rows * kPanelRows);
    } else {
      for (float* row = sums; row < sums + rows * kPanelRows; row += kPanelRows)
        gate_values(a.activation, row, row + panel_sums, row, panel.rows);
    }
    for (int64_t b = slab.first_block; b < slab.last_block; ++b) {
      const RowBlock block = row_block(plan, b);
      Engine::pack(*a.next, block, sums + (block.first - first.first) * kPanelRows, kPanelRows, panel.first_row,
                   panel.first_row + panel.rows);
    }
  }
}

template <class Engine>
constexpr int64_t widened_bytes() {
  if constexpr (requires { Engine::kWidenedBytes; }) return Engine::kWidenedBytes;
  return 1;
}

template <class Engine>
void run_group(const LinearFwd& a, const Plan& plan, const Slab& slab, const Group& group) {
  constexpr int64_t kPanelSums = (kSlabRows + Engine::kMaxRows) * kPanelRows;
  alignas(64) float sums[kGroupPanels * kPanelSums];  // the second-level cache keeps them; y's rows may collide there
  alignas(64) char widened[widened_bytes<Engine>()];  // the piece at hand; the first-level cache keeps it
  const int64_t panels = group.end - group.first, pieces = panels * ceil_div(a.K, group.slab_cols);
  Piece next = piece_at<Engine>(a, group, 0);
  for (int64_t i = 0; i < pieces; ++i) {
    Piece piece = next;
    if constexpr (requires { Engine::kWidenedBytes; }) {
      if (Engine::widens(piece.panel.part->dtype, slab.last_block - slab.first_block)) {
        Engine::widen(piece.panel, piece.k, piece.count, widened);
        piece.panel.widened = widened;
      }
    }
    LinesAhead later = {};
    const char* soon = nullptr;
    if (i + 1 < pieces) next = piece_at<Engine>(a, group, i + 1);
    if (i + 1 < pieces && plan.group_panels > 1) {  // the pieces of one panel follow each other in memory
      soon = Engine::cells(next.panel, next.k);
      later = {soon, (Engine::cells(next.panel, next.k + next.count) - soon) / 64, 0};
      later.step = ceil_div(later.lines, slab.last_block - slab.first_block);
    }
    multiply_piece<Engine>(a, plan, piece, slab, sums + i % panels * kPanelSums, soon, later);
  }
  if (a.next != nullptr) leave_units<Engine>(a, plan, slab, group, sums, kPanelSums);
}

template <class Engine>
void run_task(const LinearFwd& a, const Plan& plan, int64_t slab_index, int64_t task) {
  const Slab slab = {slab_index * plan.blocks / plan.slabs, (slab_index + 1) * plan.blocks / plan.slabs};
  const PanelRange panels = task_range(plan.cuts, task);
  if (a.N <= kFewRows) prefetch_far_bytes(panel_at<Engine>(a, panels.first).bytes, kStartBytes);
  const int64_t end = panels.last * plan.step;
  for (int64_t first = panels.first * plan.step; first < end; first += plan.group_panels) {
    run_group<Engine>(a, plan, slab, {first, least(first + plan.group_panels, end), plan.slab_cols});
  }
}

/// Computes the products of a call whose x is packed.
template <class Engine>
void run_products(const Stream& stream, const LinearFwd& a, const Plan& plan) {
  parallel_for(*stream.pool, plan.slabs * plan.tasks,
               [&](int64_t i) { run_task<Engine>(a, plan, i / plan.tasks, i % plan.tasks); });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
