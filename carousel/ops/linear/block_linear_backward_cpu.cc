// SPDX-License-Identifier: Apache-2.0
// Gradients of block-diagonal products. That of a weight and of a bias is one chain over the rows, which starts from
// what the gradient holds: threads divide outputs. That of x is one chain over the parts and their outputs; where
// blocks are narrow, lanes run along rows, for a block has too few columns for them.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/transpose.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/linear/block_linear_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using Args = ops::BlockBackwardArgs;
using Part = ops::BlockBackwardPart;

constexpr int64_t kRowChunk = 128;       // rows whose columns are packed, and stay in cache for all tiles of a task
constexpr int64_t kNarrowColumns = 128;  // columns of a task's narrow blocks
constexpr int64_t kOutputs = 64;         // outputs of a task, in a wide block
constexpr int64_t kPanelRows = DensePanels::kPanelRows;

constexpr int64_t padded_row(int64_t width) { return (width + 15) / 16 * 16 + 16; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }
inline void store_at(float* p, Vec v, int64_t count) { count >= kLanes ? store(p, v) : store_partial(p, v, count); }

/// Blocks of a task.
inline int64_t blocks_of_task(const Args& args) {
  return args.wide || args.size >= kNarrowColumns ? 1 : kNarrowColumns / args.size;
}

/// Outputs of some blocks of a part, whose gradients one thread adds to.
struct Outputs {
  const Part* part;
  int64_t first_block, blocks;
  int64_t first, count;  // outputs within each block: more blocks than one have all of theirs
  float* x;              // [kRowChunk, x_row] packed
  float* d_y;            // [kRowChunk, d_row] packed
  int64_t x_row, d_row;
};

/// Copies `width` columns of `rows` rows, followed by zeros, since tiles read whole vectors.
inline void pack(const View& from, int64_t first_row, int64_t first_column, int64_t rows, int64_t width, float* to) {
  const int64_t row = padded_row(width);
  for (int64_t n = 0; n < rows; ++n) {
    const float* const from_n = from.f32() + (first_row + n) * from.stride + first_column;
    if (n + 4 < rows) prefetch_near_floats(from_n + 4 * from.stride, width);
    for (int64_t j = 0; j < row; j += kLanes) {
      store(to + n * row + j, width - j > 0 ? load_at(from_n + j, width - j) : Vec{});
    }
  }
}

/// Adds the products of the packed rows to the gradient of a block's weight [size, size], at the task's first output.
inline void add_products(const Outputs& task, int64_t b, int64_t size, int64_t rows, float* d_weight) {
  const float* const x = task.x + b * size;
  const float* const d_y = task.d_y + b * task.count;
  for_column_tiles<kTileVecs>(size, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) CAROUSEL_INLINE_LAMBDA {
    for_row_tiles(task.count, [&]<int R>(int64_t o) CAROUSEL_INLINE_LAMBDA {
      float* const d = d_weight + o * size + j;
      Tile<R, V> tile;
      load_tile<kPartial>(tile.acc, d, size, lanes);
      multiply_add<false>(tile, d_y + o, 1, task.d_row, x + j, task.x_row, rows, kLanes);
      store_tile<kPartial>(tile.acc, d, size, lanes);
    });
  });
}

inline void add_rows(const Outputs& task, int64_t b, int64_t rows, float* d_bias) {
  for (int64_t j = 0; j < task.count; j += kLanes) {
    const float* const d_y = task.d_y + b * task.count + j;
    Vec total = load_at(d_bias + j, task.count - j);
    for (int64_t n = 0; n < rows; ++n) total = total + load(d_y + n * task.d_row);
    store_at(d_bias + j, total, task.count - j);
  }
}

void add_gradients(const Args& args, const Outputs& task) {
  const int64_t size = args.size;
  for (int64_t first = 0; first < args.rows; first += kRowChunk) {
    const int64_t rows = smaller(kRowChunk, args.rows - first);
    pack(task.part->d_y, first, task.first_block * size + task.first, rows, task.blocks * task.count, task.d_y);
    if (task.part->d_weight != nullptr) pack(args.x, first, task.first_block * size, rows, task.blocks * size, task.x);
    for (int64_t b = 0; b < task.blocks; ++b) {
      const int64_t block = task.first_block + b;
      if (task.part->d_weight != nullptr) {
        add_products(task, b, size, rows, task.part->d_weight + (block * size + task.first) * size);
      }
      if (task.part->d_bias != nullptr) {
        add_rows(task, b, rows, task.part->d_bias + block * task.part->d_bias_stride + task.first);
      }
    }
  }
}

struct Packed {
  float* rows;  // [workers] of `floats`
  int64_t x_floats, floats;
};
Packed take_packed(const Stream& stream, const Args& args, Workspace& workspace) {
  const int64_t inputs = blocks_of_task(args) * args.size;
  const int64_t outputs = args.wide ? kOutputs : inputs;
  Packed packed = {};
  packed.x_floats = kRowChunk * padded_row(inputs) + 16;
  packed.floats = packed.x_floats + kRowChunk * padded_row(outputs) + 16;
  packed.rows = workspace.take<float>(stream.threads() * packed.floats);
  return packed;
}

/// Row-major copies of the parts' wide weights, with padded rows.
struct Weights {
  float* rows;  // [parts, blocks, size, row]
  int64_t row;
  float* of(const Args& args, int64_t part, int64_t block) const {
    return rows + (part * args.blocks + block) * args.size * row;
  }
};
Weights take_weights(const Args& args, Workspace& workspace) {
  Weights weights = {};
  weights.row = padded_row(args.size);
  if (args.wide) weights.rows = workspace.take<float>(args.count * args.blocks * args.size * weights.row);
  return weights;
}

void unpack_weights(const Stream& stream, const Args& args, const Weights& weights) {
  const int64_t panels = (args.size - 1) / kPanelRows + 1;
  parallel_ranges(stream, args.count * args.blocks * panels, args.size * kPanelRows * 2, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t part = i / (args.blocks * panels), block = i / panels % args.blocks, panel = i % panels;
      const float* const from =
          args.parts[part].packed + block * args.parts[part].block_floats + panel * args.size * kPanelRows;
      transpose_matrix<true>(from, kPanelRows, args.size, smaller(kPanelRows, args.size - panel * kPanelRows),
                             weights.of(args, part, block) + panel * kPanelRows * weights.row, weights.row);
    }
  });
}

/// The gradient of x in `rows` rows of a wide block.
void wide_rows(const Args& args, const Weights& weights, int64_t block, int64_t first, int64_t rows) {
  const int64_t column = block * args.size;
  for_column_tiles<kTileVecs>(args.size, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) CAROUSEL_INLINE_LAMBDA {
    for_row_tiles(rows, [&]<int R>(int64_t n) CAROUSEL_INLINE_LAMBDA {
      Tile<R, V> tile;
      clear_tile(tile.acc);
      for (int64_t p = 0; p < args.count; ++p) {
        const View& d_y = args.parts[p].d_y;
        multiply_add<false>(tile, d_y.f32() + (first + n) * d_y.stride + column, d_y.stride, 1,
                            weights.of(args, p, block) + j, weights.row, args.size, kLanes);
      }
      float* const d_x = args.d_x.f32() + (first + n) * args.d_x.stride + column + j;
      store_tile<kPartial>(tile.acc, d_x, args.d_x.stride, lanes);
    });
  });
}

/// The gradient of x in at most kLanes rows of `blocks` narrow blocks. A lane is a row.
void narrow_rows(const Args& args, int64_t first_block, int64_t blocks, int64_t first, int64_t rows) {
  const int64_t size = args.size, column = first_block * size, columns = blocks * size;
  float d_y[kNarrowColumns * kLanes], d_x[kNarrowColumns * kLanes];  // [columns, rows]
  for (int64_t p = 0; p < args.count; ++p) {
    const Part& part = args.parts[p];
    transpose_matrix<true>(part.d_y.f32() + first * part.d_y.stride + column, part.d_y.stride, rows, columns, d_y,
                           kLanes);
    for (int64_t b = 0; b < blocks; ++b) {
      const float* const weight = part.packed + column + b * size;  // [inputs, outputs], a row of all blocks apart
      for_row_tiles(size, [&]<int R>(int64_t d) CAROUSEL_INLINE_LAMBDA {
        float* const out = d_x + (b * size + d) * kLanes;
        Tile<R, 1> tile;
        p > 0 ? load_tile(tile.acc, out, kLanes) : clear_tile(tile.acc);
        multiply_add<false>(tile, weight + d * args.blocks * size, args.blocks * size, 1, d_y + b * size * kLanes,
                            kLanes, size, kLanes);
        store_tile(tile.acc, out, kLanes);
      });
    }
  }
  transpose_matrix<false>(d_x, kLanes, columns, rows, args.d_x.f32() + first * args.d_x.stride + column,
                          args.d_x.stride);
}

}  // namespace

int64_t block_linear_d_weight_workspace(const Stream& stream, const ops::BlockBackwardArgs& args) {
  Workspace counted;
  take_packed(stream, args, counted);
  return counted.bytes();
}

void block_linear_d_weight(const Stream& stream, const ops::BlockBackwardArgs& args) {
  Workspace workspace(args.workspace);
  const Packed packed = take_packed(stream, args, workspace);
  const int64_t size = args.size, blocks = blocks_of_task(args), groups = (args.blocks - 1) / blocks + 1;
  const int64_t spans = args.wide ? (size - 1) / kOutputs + 1 : 1;
  parallel_workers(stream, args.count * groups * spans, args.count * args.rows * args.blocks * size * size * 2,
                   [&](int64_t worker, int64_t i) {
                     Outputs task = {};
                     task.part = &args.parts[i / (groups * spans)];
                     task.first_block = i / spans % groups * blocks;
                     task.blocks = smaller(blocks, args.blocks - task.first_block);
                     task.first = i % spans * kOutputs;
                     task.count = args.wide ? smaller(kOutputs, size - task.first) : size;
                     task.x = packed.rows + worker * packed.floats;
                     task.d_y = task.x + packed.x_floats;
                     task.x_row = padded_row(task.blocks * size);
                     task.d_row = padded_row(task.blocks * task.count);
                     if (task.part->d_weight != nullptr || task.part->d_bias != nullptr) add_gradients(args, task);
                   });
}

int64_t block_linear_d_x_workspace(const Stream& /*stream*/, const ops::BlockBackwardArgs& args) {
  Workspace counted;
  take_weights(args, counted);
  return counted.bytes();
}

void block_linear_d_x(const Stream& stream, const ops::BlockBackwardArgs& args) {
  Workspace workspace(args.workspace);
  const Weights weights = take_weights(args, workspace);
  if (args.wide) unpack_weights(stream, args, weights);
  const int64_t rows = args.wide ? kOutputs : kLanes, row_groups = (args.rows - 1) / rows + 1;
  const int64_t blocks = blocks_of_task(args), groups = (args.blocks - 1) / blocks + 1;
  parallel_ranges(stream, row_groups * groups, args.count * rows * blocks * args.size * args.size * 2,
                  [&](int64_t i, int64_t end) {
                    for (; i < end; ++i) {
                      const int64_t first = i / groups * rows, count = smaller(rows, args.rows - first);
                      const int64_t block = i % groups * blocks;
                      if (args.wide) {
                        wide_rows(args, weights, block, first, count);
                      } else {
                        narrow_rows(args, block, smaller(blocks, args.blocks - block), first, count);
                      }
                    }
                  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
