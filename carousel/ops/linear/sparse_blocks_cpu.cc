// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over q8 and q4 weights with a bit for each that says whether it is live. One row of x is multiplied
// with the weights as they are held: the byte-expand instruction puts 64 cells at a time in their places, with zeros
// between, and they go through the same integer dot products, and the same chain over blocks, as a dense panel
// (linear_quant_cpu.cc). For many rows a piece of a panel is expanded once, into the first-level cache.
//
// The instruction belongs to AVX-512 VBMI2, which this file is not compiled for: it is tested for at run time, and
// without it cells are visited one by one. That is a fallback only: machines without it hold such weights otherwise.
#include "carousel/cpu/isa.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/linear/rounded_rows_cpu.h"
#include "carousel/ops/linear/sparse_linear_cpu.h"

#if defined(__AVX512VNNI__)
#define CAROUSEL_BYTE_EXPAND __attribute__((target("avx512vbmi2,popcnt")))
#endif

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::SparseBlocksFwd;
using ops::SparseBlocksPart;

constexpr int64_t kRows = SparseBlocks::kPanelRows;
constexpr int64_t kMaskBytes = SparseBlocks::kMaskBytes;
constexpr int64_t kHeadBytes = SparseBlocks::kHeadBytes;
constexpr int64_t kZeroCode = 128;
constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kSlabRows = 192;  // the first- or second-level cache holds their sums of one panel

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// 32 values of x, rounded: a block of one row.
struct XBlock {
  int8_t codes[kBlock];
  float scale;
  int32_t start;        // -kZeroCode times the sum of the codes
  int32_t start_of_q4;  // the start for dense q4 panels; unused here
};
static_assert(sizeof(XBlock) == kRowBlockBytes && sizeof(XBlock) <= 11 * sizeof(float));  // packed_count's

float scale_at(const char* p) {
  F16 half;
  std::memcpy(&half, p, sizeof half);
  return to_float(half);
}

/// Multiplies the row of x with one panel: sums [32], bias not added.
void multiply_cells(const char* panel, const XBlock* x, int64_t blocks, float* sums) {
  for (int64_t r = 0; r < kRows; ++r) sums[r] = 0;
  for (int64_t b = 0; b < blocks; ++b, ++x) {
    int32_t totals[kRows] = {};
    const char* code = panel + kHeadBytes;
    for (int64_t word = 0; word < kMaskBytes / 8; ++word) {
      uint64_t live;
      std::memcpy(&live, panel + word * 8, sizeof live);
      for (; live != 0; live &= live - 1) {
        const int64_t cell = word * 64 + __builtin_ctzll(live);
        const auto q = static_cast<int32_t>(static_cast<uint8_t>(*code++)) - static_cast<int32_t>(kZeroCode);
        totals[cell / 4 % kRows] += q * x->codes[cell / (4 * kRows) * 4 + cell % 4];
      }
    }
    for (int64_t r = 0; r < kRows; ++r) {
      sums[r] = fma1(static_cast<float>(totals[r]) * x->scale, scale_at(panel + kMaskBytes + 2 * r), sums[r]);
    }
    panel = code;
  }
}

#if defined(CAROUSEL_BYTE_EXPAND)
// How far ahead of a block the panel is prefetched.
constexpr int64_t kPrefetchBytes = 4096;

/// 64 cells of a dense panel; advances `code` past the live ones.
CAROUSEL_BYTE_EXPAND __attribute__((always_inline)) inline __m512i expand(const char* masks, int64_t word,
                                                                          const char*& code) {
  uint64_t live;
  std::memcpy(&live, masks + word * 8, sizeof live);
  __m512i codes = _mm512_loadu_si512(code);
  asm("" : "+v"(codes));  // keeps it in a register: the instruction is slow when it reads memory
  code += __builtin_popcountll(live);
  return _mm512_mask_expand_epi8(_mm512_set1_epi8(static_cast<char>(kZeroCode)), live, codes);
}

CAROUSEL_BYTE_EXPAND void multiply_expanding(const char* panel, const XBlock* x, int64_t blocks, float* sums) {
  __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (; blocks > 0; --blocks, ++x) {
    for (int64_t line = 0; line < 8; ++line) prefetch_near(panel + kPrefetchBytes + line * kLineBytes);
    const char* code = panel + kHeadBytes;
    __m512i totals[2] = {_mm512_set1_epi32(x->start), _mm512_set1_epi32(x->start)};
#pragma GCC unroll 8
    for (int64_t g = 0; g < kGroups; ++g) {
      int32_t four;
      std::memcpy(&four, x->codes + 4 * g, sizeof four);
      const __m512i codes = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int64_t h = 0; h < 2; ++h) {
        totals[h] = _mm512_dpbusd_epi32(totals[h], expand(panel, 2 * g + h, code), codes);
      }
    }
#pragma GCC unroll 2
    for (int64_t h = 0; h < 2; ++h) {
      const auto* const half = reinterpret_cast<const __m256i*>(panel + kMaskBytes + 32 * h);
      const __m512 scale = _mm512_cvtph_ps(_mm256_loadu_si256(half));
      acc[h] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(totals[h]), _mm512_set1_ps(x->scale)), scale, acc[h]);
    }
    panel = code;
  }
  _mm512_storeu_ps(sums, acc[0]);
  _mm512_storeu_ps(sums + 16, acc[1]);
}

constexpr int kTileRows = 6;  // 12 integer and 12 float sums, 2 weights and x are in registers
constexpr int64_t kPieceBlocks = 16;
constexpr int64_t kBlockCells = kBlock * kRows;

/// A piece of a panel, expanded.
struct Piece {
  alignas(64) char cells[kPieceBlocks * kBlockCells];
  float scales[kPieceBlocks * kRows];
  int64_t blocks;
};

/// Expands a piece; returns where the next one begins.
CAROUSEL_BYTE_EXPAND const char* expand_piece(const char* block, Piece& out) {
  for (int64_t b = 0; b < out.blocks; ++b) {
    for (int64_t line = 0; line < 8; ++line) prefetch_near(block + kPrefetchBytes + line * kLineBytes);
    const char* code = block + kHeadBytes;
#pragma GCC unroll 16
    for (int64_t word = 0; word < kMaskBytes / 8; ++word) {
      _mm512_storeu_si512(out.cells + b * kBlockCells + word * 64, expand(block, word, code));
    }
    for (int64_t h = 0; h < 2; ++h) {
      const auto* const half = reinterpret_cast<const __m256i*>(block + kMaskBytes + 32 * h);
      _mm512_storeu_ps(out.scales + b * kRows + 16 * h, _mm512_cvtph_ps(_mm256_loadu_si256(half)));
    }
    block = code;
  }
  return block;
}

/// R rows of x, `pitch` blocks apart, times a piece: sums [R, 32].
template <int R>
void tile(const XBlock* x, int64_t pitch, const Piece& piece, bool first, float* sums) {
  __m512 acc[R][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    acc[r][0] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kRows);
    acc[r][1] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + r * kRows + 16);
  }
  for (int64_t b = 0; b < piece.blocks; ++b, ++x) {
    const char* const cells = piece.cells + b * kBlockCells;
    __m512i totals[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) totals[r][0] = totals[r][1] = _mm512_set1_epi32(x[r * pitch].start);
#pragma GCC unroll 8
    for (int64_t g = 0; g < kGroups; ++g) {
      const __m512i low = _mm512_loadu_si512(cells + g * 128), high = _mm512_loadu_si512(cells + g * 128 + 64);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        int32_t four;
        std::memcpy(&four, x[r * pitch].codes + 4 * g, sizeof four);
        const __m512i codes = _mm512_set1_epi32(four);
        totals[r][0] = _mm512_dpbusd_epi32(totals[r][0], low, codes);
        totals[r][1] = _mm512_dpbusd_epi32(totals[r][1], high, codes);
      }
    }
    const __m512 low = _mm512_loadu_ps(piece.scales + b * kRows), high = _mm512_loadu_ps(piece.scales + b * kRows + 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 scale = _mm512_set1_ps(x[r * pitch].scale);
      acc[r][0] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(totals[r][0]), scale), low, acc[r][0]);
      acc[r][1] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(totals[r][1]), scale), high, acc[r][1]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    _mm512_storeu_ps(sums + r * kRows, acc[r][0]);
    _mm512_storeu_ps(sums + r * kRows + 16, acc[r][1]);
  }
}

void run_tile(int64_t rows, const XBlock* x, int64_t pitch, const Piece& piece, bool first, float* sums) {
  switch (rows) {
    case 1:
      return tile<1>(x, pitch, piece, first, sums);
    case 2:
      return tile<2>(x, pitch, piece, first, sums);
    case 3:
      return tile<3>(x, pitch, piece, first, sums);
    case 4:
      return tile<4>(x, pitch, piece, first, sums);
    case 5:
      return tile<5>(x, pitch, piece, first, sums);
    default:
      return tile<kTileRows>(x, pitch, piece, first, sums);
  }
}

/// Rows of x times a panel: sums [rows, 32].
void multiply_rows(const char* panel, const XBlock* x, int64_t rows, int64_t blocks, float* sums) {
  const int64_t tiles = ceil_div(rows, kTileRows);
  Piece piece;
  for (int64_t k = 0; k < blocks; k += kPieceBlocks) {
    piece.blocks = least(kPieceBlocks, blocks - k);
    panel = expand_piece(panel, piece);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = t * rows / tiles, last = (t + 1) * rows / tiles;
      run_tile(last - first, x + first * blocks + k, blocks, piece, k == 0, sums + first * kRows);
    }
  }
}

void multiply_panel(const char* panel, const XBlock* x, int64_t rows, int64_t blocks, float* sums) {
  if (!has_byte_expand()) {
    for (int64_t n = 0; n < rows; ++n) multiply_cells(panel, x + n * blocks, blocks, sums + n * kRows);
  } else if (rows == 1) {
    multiply_expanding(panel, x, blocks, sums);
  } else {
    multiply_rows(panel, x, rows, blocks, sums);
  }
}
#else
void multiply_panel(const char* panel, const XBlock* x, int64_t rows, int64_t blocks, float* sums) {
  for (int64_t n = 0; n < rows; ++n) multiply_cells(panel, x + n * blocks, blocks, sums + n * kRows);
}
#endif

/// Panel `index` of all parts' panels in one list, times rows first to last of x.
void run_panel(const SparseBlocksFwd& a, int64_t index, int64_t first, int64_t last) {
  const SparseBlocksPart* part = a.parts;
  for (; index >= ceil_div(part->rows, kRows); ++part) index -= ceil_div(part->rows, kRows);
  const int64_t blocks = ceil_div(a.K, kBlock);
  const auto* const x = reinterpret_cast<const XBlock*>(a.packed) + first * blocks;
  const int64_t first_row = index * kRows, rows = least(part->rows - first_row, kRows);
  const char* const panel = reinterpret_cast<const char*>(part->bytes) + part->first_bytes[index];
  alignas(64) float sums[kSlabRows * kRows];
  multiply_panel(panel, x, last - first, blocks, sums);
  for (int64_t n = 0; n < last - first; ++n) {
    float* const y = a.y + (first + n) * a.y_stride + part->first_col + first_row;
    for (int64_t r = 0; r < rows; ++r) {
      y[r] = sums[n * kRows + r] + (part->bias != nullptr ? part->bias[first_row + r] : -0.0f);
    }
  }
}

template <XScale kScale>
void round_x(const Stream& stream, const SparseBlocksFwd& a) {
  constexpr int64_t kFewBlocks = 128;  // one thread is quicker than waking the others
  const int64_t blocks = ceil_div(a.K, kBlock), all = a.N * blocks;
  auto* const x = reinterpret_cast<char*>(a.packed);
  const int64_t tasks = all <= kFewBlocks ? 1 : ceil_div(all, kFewBlocks / 2);
  const auto round_some = [&](int64_t task) {
    const int64_t last = (task + 1) * all / tasks;
    for (int64_t first = task * all / tasks, count; first < last; first += count) {  // of one row
      const int64_t k = first % blocks * kBlock;
      count = least(blocks - first % blocks, last - first);
      const float* const values = a.x + first / blocks * a.K + k;
      round_row<kScale>(values, least(count * kBlock, a.K - k), 0, 1, x + first * kRowBlockBytes);
    }
  };
  if (tasks == 1) return round_some(0);
  parallel_for(*stream.pool, tasks, round_some);
}

}  // namespace

void sparse_blocks_fwd(const Stream& stream, const SparseBlocksFwd& a) {
  if (a.dtype == DType::kQ4)
    round_x<XScale::kPower>(stream, a);
  else
    round_x<XScale::kPeak>(stream, a);
  int64_t panels = 0;
  for (int64_t i = 0; i < a.part_count; ++i) panels += ceil_div(a.parts[i].rows, kRows);
  const int64_t slabs = ceil_div(a.N, kSlabRows);
  const int64_t tasks = least(panels, ceil_div(stream.pool->threads() * kTasksPerThread, slabs));
  parallel_for(*stream.pool, slabs * tasks, [&](int64_t i) {
    const int64_t slab = i / tasks, task = i % tasks;
    for (int64_t p = task * panels / tasks; p < (task + 1) * panels / tasks; ++p) {
      run_panel(a, p, slab * a.N / slabs, (slab + 1) * a.N / slabs);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
