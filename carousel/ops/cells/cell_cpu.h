// SPDX-License-Identifier: Apache-2.0
// Steps shared by the kernels of continuous-time cells. Every output of a map is one chain of multiply-adds over its
// inputs, x first. So chains can be begun for many rows at once and continued step by step, by any thread, with the
// same bits.
#pragma once

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/cells/cell_args_cpu.h"
#include "carousel/ops/cells/cell_formulas.h"

namespace carousel::cpu::CAROUSEL_ISA {

/// One sequence of the batch.
struct CellSequence {
  int64_t first_row, rows;
  float* h;  // [H] the cell's state, or null: zeros, nothing kept
  float* c;  // [H] the LSTM's memory, or null
};
inline CellSequence cell_sequence(const ops::CellBatch& batch, int64_t s) {
  return {batch.seqs.first_row(s), batch.seqs.length(s), batch.h == nullptr ? nullptr : batch.h[s],
          batch.c == nullptr ? nullptr : batch.c[s]};
}

inline Vec load_some(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }
inline void store_some(float* p, Vec v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, count);
  }
}

/// Calls f(begin, end) over groups of kCellPad columns; on the threads of `threads` (may be null) where it is worth it.
template <class F>
inline void for_groups(const Stream* threads, int64_t columns, int64_t group_work, F&& f) {
  const int64_t groups = columns / ops::kCellPad;
  if (threads == nullptr) return f(int64_t{0}, groups);
  parallel_ranges(*threads, groups, group_work, f);
}

/// The x part of a map for all rows: out [N, M] = x [N, I] W[0..I).
inline void map_rows(const Stream& stream, const ops::CellMapArgs& map, const float* x, int64_t rows, int64_t inputs,
                     float* out) {
  constexpr int64_t kBlock = 2 * kTileRows;
  const int64_t M = map.outputs;
  parallel_ranges(stream, (rows + kBlock - 1) / kBlock, kBlock * inputs * M * 2, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kBlock, last = end * kBlock < rows ? end * kBlock : rows;
    for_column_tiles<kTileVecs>(M, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
      for_row_tiles(last - first, [&]<int R>(int64_t r) {
        Tile<R, V> tile;
        clear_tile(tile.acc);
        multiply_add<kPartial>(tile, x + (first + r) * inputs, inputs, 1, map.weight + j, M, inputs, lanes);
        store_tile(tile.acc, out + (first + r) * M + j, M);
      });
    });
  });
}

/// out [M] = start [M] + z [count] W[first..first + count); start may be out.
inline void map_step(const Stream* threads, const ops::CellMapArgs& map, int64_t first, const float* z, int64_t count,
                     const float* start, float* out) {
  constexpr int64_t kVecs = ops::kCellPad / kLanes;
  for_groups(threads, map.outputs, count * ops::kCellPad * 2, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin * ops::kCellPad; j < end * ops::kCellPad; j += ops::kCellPad) {
      Vec acc[kVecs];
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVecs; ++v) acc[v] = load(start + j + v * kLanes);
      const float* w = map.weight + first * map.outputs + j;  // [count] rows, M apart
      for (int64_t k = 0; k < count; ++k, w += map.outputs) {
        const Vec z_k = set1(z[k]);
#pragma GCC unroll 4
        for (int64_t v = 0; v < kVecs; ++v) acc[v] = fma(z_k, load(w + v * kLanes), acc[v]);
      }
#pragma GCC unroll 4
      for (int64_t v = 0; v < kVecs; ++v) store(out + j + v * kLanes, acc[v]);
    }
  });
}

/// One step of the mixed memory. `from_x` [4 Hp]: the x part; h [H] becomes the LSTM's output, c [H] its memory.
inline void memory_step(const Stream* threads, const ops::CellMapArgs& map, int64_t inputs, const float* from_x,
                        float* h, float* c, float* gates) {
  const int64_t units = map.inputs - inputs, stride = map.outputs / 4;
  map_step(threads, map, inputs, h, units, from_x, gates);
  for (int64_t j = 0; j < units; j += kLanes) {
    const int64_t count = units - j;
    const auto sum = [&](int64_t g) { return load(gates + g * stride + j) + load(map.bias + g * stride + j); };
    const auto open = ops::memory_gates<VecMath>({sum(0), sum(1), sum(2), sum(3)});
    const Vec memory = ops::memory_next(open, load_some(c + j, count));
    store_some(c + j, memory, count);
    store_some(h + j, ops::memory_output<VecMath>(memory, open.o), count);
  }
}

/// Keeps the states that row n left.
inline void keep_row(const ops::CellKept& kept, int64_t n, int64_t units, const float* h, const float* c) {
  const auto bytes = sizeof(float) * static_cast<size_t>(units);
  if (kept.h != nullptr) std::memcpy(kept.h + n * units, h, bytes);
  if (kept.c != nullptr) std::memcpy(kept.c + n * units, c, bytes);
}

/// Calls body(threads, scratch, sequence) for every sequence with rows. Several sequences run side by side on the
/// threads. Else they run one after the other, each step divided where that is worth it; then `threads` is not null.
template <class Body>
inline void for_sequences(const Stream& stream, const ops::CellBatch& batch, int64_t total_work, float* scratch,
                          int64_t scratch_stride, Body&& body) {
  if (batch.seqs.batch > 1) {
    parallel_workers(stream, batch.seqs.batch, total_work, [&](int64_t worker, int64_t s) {
      const CellSequence seq = cell_sequence(batch, s);
      if (seq.rows > 0) body(static_cast<const Stream*>(nullptr), scratch + worker * scratch_stride, seq);
    });
    return;
  }
  const CellSequence seq = cell_sequence(batch, 0);
  if (seq.rows > 0) body(&stream, scratch, seq);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
