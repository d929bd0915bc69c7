// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over the live weights alone. For one row of x lanes run along the 32 rows of a panel and each fetches
// the x of its own column; for many, lanes run along the rows of x and a weight is broadcast. Either way an element of
// y is the same chain: its live weights, columns ascending.
#include "carousel/ops/linear/sparse_linear_cpu.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::SparseLinearFwd;
using ops::SparsePart;

constexpr int64_t kPanelRows = SparsePanels::kPanelRows;
constexpr int kPanelVecs = static_cast<int>(kPanelRows / kLanes);
constexpr int64_t kSlabBlocks = 2;  // blocks of kLanes rows of x that the second-level cache keeps
constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kPrefetchBytes = 2048;

#define SPARSE_INLINE __attribute__((always_inline)) inline

/// Reads kLanes values and widens them; one such struct per type of values.
struct F32Value {
  static constexpr int64_t kBytes = 4;
  static SPARSE_INLINE Vec read(const char* p) { return as_float(load_int(p)); }
  static SPARSE_INLINE Vec broadcast(const char* p) { return set1(load_float(p)); }
};

/// kLanes 16-bit cells, each in the low half of a lane.
SPARSE_INLINE IntVec read_u16(const char* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<IntVec>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  uint16_t cells[kLanes];
  std::memcpy(cells, p, sizeof cells);
  IntVec out;
  for (int64_t i = 0; i < kLanes; ++i) out[i] = cells[i];
  return out;
#endif
}

/// One 16-bit cell in all lanes; the upper halves hold anything.
SPARSE_INLINE IntVec broadcast_u16(const char* p) {
  int16_t cell;
  std::memcpy(&cell, p, sizeof cell);
#if defined(__AVX512F__)
  return reinterpret_cast<IntVec>(_mm512_set1_epi16(cell));
#elif defined(__AVX2__)
  return reinterpret_cast<IntVec>(_mm256_set1_epi16(cell));
#else
  return IntVec{} + static_cast<int32_t>(cell);
#endif
}

struct BF16Value {
  static constexpr int64_t kBytes = 2;
  static SPARSE_INLINE Vec read(const char* p) { return as_float(read_u16(p) << 16); }
  static SPARSE_INLINE Vec broadcast(const char* p) { return as_float(broadcast_u16(p) << 16); }
};

struct F16Value {
  static constexpr int64_t kBytes = 2;
  static SPARSE_INLINE Vec read(const char* p) { return load_f16(p); }
  static SPARSE_INLINE Vec broadcast(const char* p) {
    int16_t half;
    std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_set1_epi16(half));
#elif defined(__AVX2__)
    return _mm256_cvtph_ps(_mm_set1_epi16(half));
#else
    return widen_f16(broadcast_u16(p));
#endif
  }
};

template <class Index>
SPARSE_INLINE int64_t column_at(const char* columns, int64_t i) {
  Index column;
  std::memcpy(&column, columns + i * static_cast<int64_t>(sizeof column), sizeof column);
  return static_cast<int64_t>(column);
}

#if defined(__AVX2__)
// Four loads and three insertions: on the machines measured faster than the gather instruction.
template <class Index>
SPARSE_INLINE __m128 pick_four(const float* x, const char* columns, int64_t i) {
  const __m128 a = _mm_load_ss(x + column_at<Index>(columns, i));
  const __m128 b = _mm_load_ss(x + column_at<Index>(columns, i + 1));
  const __m128 c = _mm_load_ss(x + column_at<Index>(columns, i + 2));
  const __m128 d = _mm_load_ss(x + column_at<Index>(columns, i + 3));
  return _mm_insert_ps(_mm_insert_ps(_mm_insert_ps(a, b, 0x10), c, 0x20), d, 0x30);
}
template <class Index>
SPARSE_INLINE __m256 pick_eight(const float* x, const char* columns, int64_t i) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(pick_four<Index>(x, columns, i)),
                              pick_four<Index>(x, columns, i + 4), 1);
}
#endif

/// x of kLanes columns, from the i-th on.
template <class Index>
SPARSE_INLINE Vec pick(const float* x, const char* columns, int64_t i) {
#if defined(__AVX512F__)
  return _mm512_insertf32x8(_mm512_castps256_ps512(pick_eight<Index>(x, columns, i)),
                            pick_eight<Index>(x, columns, i + 8), 1);
#elif defined(__AVX2__)
  return pick_eight<Index>(x, columns, i);
#else
  Vec v;
  for (int64_t lane = 0; lane < kLanes; ++lane) v[lane] = x[column_at<Index>(columns, i + lane)];
  return v;
#endif
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// A panel: its steps, and the live weights of its rows.
struct Panel {
  const char* steps;
  int64_t count;          // steps
  const int32_t* counts;  // [32] live weights of each row
  int64_t rows;           // rows that exist
};

template <class Index, class Value>
constexpr int64_t step_bytes() {
  return kPanelRows * (static_cast<int64_t>(sizeof(Index)) + Value::kBytes);
}

/// One row of x: sums [32].
template <class Index, class Value>
void multiply_row(const Panel& panel, const float* x, float* sums) {
  int64_t whole = panel.count;  // steps that every row takes
  for (int64_t r = 0; r < panel.rows; ++r) whole = least(whole, panel.counts[r]);
  Vec acc[kPanelVecs] = {};
  const char* step = panel.steps;
  int64_t l = 0;
  for (; l < whole; ++l, step += step_bytes<Index, Value>()) {
    const char* const values = step + kPanelRows * static_cast<int64_t>(sizeof(Index));
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVecs; ++v) {
      acc[v] = fma(pick<Index>(x, step, v * kLanes), Value::read(values + v * kLanes * Value::kBytes), acc[v]);
    }
  }
  for (; l < panel.count; ++l, step += step_bytes<Index, Value>()) {
    const char* const values = step + kPanelRows * static_cast<int64_t>(sizeof(Index));
#pragma GCC unroll 8
    for (int v = 0; v < kPanelVecs; ++v) {
      IntVec counts;
      std::memcpy(&counts, panel.counts + v * kLanes, sizeof counts);
      const Vec next = fma(pick<Index>(x, step, v * kLanes), Value::read(values + v * kLanes * Value::kBytes), acc[v]);
      acc[v] = counts > static_cast<int32_t>(l) ? next : acc[v];
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < kPanelVecs; ++v) store(sums + v * kLanes, acc[v]);
}

/// Where the columns and values of kLanes rows in one step lie.
template <class Index, class Value>
struct Cells {
  const char* columns;
  const char* values;

  SPARSE_INLINE void advance() {
    columns += step_bytes<Index, Value>();
    values += step_bytes<Index, Value>();
    asm("" : "+r"(columns), "+r"(values));  // two pointers with fixed distances, not one per row
  }
  /// acc + w x of the i-th row.
  SPARSE_INLINE Vec add(int i, const float* x, int64_t pitch, Vec acc) const {
    return fma(load(x + column_at<Index>(columns, i) * pitch), Value::broadcast(values + i * Value::kBytes), acc);
  }
};

/// Multiplies a block of x, [K, pitch] with pitch <= kLanes rows: sums [32, kLanes]. Lanes past pitch hold the next
/// values in memory and are not stored.
template <class Index, class Value>
void multiply_block(const Panel& panel, const float* x, int64_t pitch, float* sums) {
  for (int64_t r = 0; r < kPanelRows; r += kLanes) {  // as many chains at once as there are lanes
    const int32_t* const counts = panel.counts + r;
    int64_t whole = counts[0], longest = 0;
    for (int i = 0; i < kLanes; ++i) {
      whole = least(whole, counts[i]);
      longest = longest > counts[i] ? longest : counts[i];
    }
    constexpr int64_t kIndexBytes = sizeof(Index);
    Cells<Index, Value> cells = {panel.steps + r * kIndexBytes,
                                 panel.steps + kPanelRows * kIndexBytes + r * Value::kBytes};
    Vec acc[kLanes] = {};
    int64_t l = 0;
    for (; l < whole; ++l, cells.advance()) {
      prefetch_near(cells.columns + kPrefetchBytes);
      prefetch_near(cells.values + kPrefetchBytes);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) acc[i] = cells.add(i, x, pitch, acc[i]);
    }
    for (; l < longest; ++l, cells.advance()) {  // the further weights of longer rows
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) {
        const Vec next = cells.add(i, x, pitch, acc[i]);
        acc[i] = IntVec{} + counts[i] > IntVec{} + static_cast<int32_t>(l) ? next : acc[i];
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) store(sums + (r + i) * kLanes, acc[i]);
  }
}

/// Multiplies a block of x, or a single row: sums [32, width]; returns width.
template <class Index, class Value>
int64_t multiply(const Panel& panel, const float* x, int64_t rows, bool one, float* sums) {
  if (one) {
    multiply_row<Index, Value>(panel, x, sums);
    return 1;
  }
  multiply_block<Index, Value>(panel, x, rows, sums);
  return kLanes;
}

template <class Value>
int64_t multiply(bool wide, const Panel& panel, const float* x, int64_t rows, bool one, float* sums) {
  return wide ? multiply<uint32_t, Value>(panel, x, rows, one, sums)
              : multiply<uint16_t, Value>(panel, x, rows, one, sums);
}

/// Row block b of the call: rows first to first + rows, packed as [K, rows] at x's offset first * K.
struct RowBlock {
  int64_t first, rows;
};
RowBlock row_block(const SparseLinearFwd& a, int64_t blocks, int64_t b) {
  const int64_t first = b * a.N / blocks;
  return {first, (b + 1) * a.N / blocks - first};
}

void pack_columns(const Stream& stream, const SparseLinearFwd& a, int64_t blocks) {
  const int64_t pieces = ceil_div(a.K, 1024);
  parallel_for(*stream.pool, blocks * pieces, [&](int64_t i) {
    const RowBlock block = row_block(a, blocks, i / pieces);
    const int64_t piece = i % pieces;
    const float* const x = a.x + block.first * a.K;
    float* const packed = a.packed + block.first * a.K;
    for (int64_t k = piece * a.K / pieces; k < (piece + 1) * a.K / pieces; ++k) {
      for (int64_t r = 0; r < block.rows; ++r) packed[k * block.rows + r] = x[r * a.K + k];
    }
  });
}

/// Multiplies panel `index` (of all parts' panels in one list) with one row block.
void run_panel(const SparseLinearFwd& a, int64_t index, const RowBlock& block) {
  const SparsePart* part = a.parts;
  for (; index >= ceil_div(part->rows, kPanelRows); ++part) index -= ceil_div(part->rows, kPanelRows);
  const int64_t first_row = index * kPanelRows;
  const int64_t value_bytes = part->dtype == DType::kF32 ? 4 : 2;
  const int64_t bytes = kPanelRows * ((part->wide ? 4 : 2) + value_bytes);
  const Panel panel = {reinterpret_cast<const char*>(part->steps) + part->first_steps[index] * bytes,
                       part->first_steps[index + 1] - part->first_steps[index], part->counts + first_row,
                       least(part->rows - first_row, kPanelRows)};
  const bool one = a.N == 1;
  const float* const x = one ? a.x : a.packed + block.first * a.K;
  alignas(64) float sums[kPanelRows * kLanes];
  const int64_t width = part->dtype == DType::kF32   ? multiply<F32Value>(part->wide, panel, x, block.rows, one, sums)
                        : part->dtype == DType::kF16 ? multiply<F16Value>(part->wide, panel, x, block.rows, one, sums)
                                                     : multiply<BF16Value>(part->wide, panel, x, block.rows, one, sums);
  for (int64_t n = 0; n < block.rows; ++n) {
    float* const y = a.y + (block.first + n) * a.y_stride + part->first_col + first_row;
    for (int64_t r = 0; r < panel.rows; ++r) {
      y[r] = sums[r * width + n] + (part->bias != nullptr ? part->bias[first_row + r] : -0.0f);
    }
  }
}

}  // namespace

void sparse_linear_fwd(const Stream& stream, const SparseLinearFwd& a) {
  int64_t panels = 0;
  for (int64_t i = 0; i < a.part_count; ++i) panels += ceil_div(a.parts[i].rows, kPanelRows);
  const int64_t blocks = ceil_div(a.N, kLanes);
  const int64_t slabs = ceil_div(blocks, kSlabBlocks);
  const int64_t tasks = least(panels, ceil_div(stream.pool->threads() * kTasksPerThread, slabs));
  if (a.N > 1) pack_columns(stream, a, blocks);
  parallel_for(*stream.pool, slabs * tasks, [&](int64_t i) {
    const int64_t slab = i / tasks, task = i % tasks;
    for (int64_t p = task * panels / tasks; p < (task + 1) * panels / tasks; ++p) {
      for (int64_t b = slab * blocks / slabs; b < (slab + 1) * blocks / slabs; ++b) {
        run_panel(a, p, row_block(a, blocks, b));
      }
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
