// SPDX-License-Identifier: Apache-2.0
// y = x W^T + b over q8 and q4 weights of which a bit each says whether they are there. One row of x meets them as
// they are held: 64 cells at a time are put in their places by the byte-expand instruction, zeros between them, and go
// through the same integer dot products, and the same chain over blocks, as a dense panel (linear_quant_cpu.cc). For
// many rows the panels are expanded once and multiplied there.
//
// The instruction is of AVX-512 VBMI2, which the instruction set of this file does not include: it is asked for at run
// time, and without it cells are visited one by one. No machine is meant to: there such weights are held otherwise.
#include "carousel/cpu/isa.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/sparse_linear.h"
#include "carousel/ops/weight.h"

#if defined(__AVX512VNNI__)
#define CAROUSEL_BYTE_EXPAND __attribute__((target("avx512vbmi2,popcnt")))
#endif

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using ops::SparseBlocksExpand;
using ops::SparseBlocksPart;
using ops::SparseBlocksRow;

constexpr int64_t kBlock = static_cast<int64_t>(kBlockValues);
constexpr int64_t kRows = SparseBlocks::kPanelRows;
constexpr int64_t kMaskBytes = SparseBlocks::kMaskBytes;
constexpr int64_t kHeadBytes = SparseBlocks::kHeadBytes;
constexpr int64_t kGroups = kBlock / 4;
constexpr int64_t kZeroCode = 128;
constexpr int64_t kTasksPerThread = 8;
constexpr int kBlockVecs = static_cast<int>(kBlock / kLanes);

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// 32 values of x, rounded.
struct XBlock {
  int8_t codes[kBlock];
  float scale;
  int32_t start;  // -kZeroCode times the sum of the codes
};
static_assert(sizeof(XBlock) <= 11 * sizeof(float));  // packed_count's

/// `count` values, the rest of the block zeros, as linear_quant_cpu.cc rounds them.
void round_block(const float* x, int64_t count, XBlock& out) {
  float values[kBlock];
  if (count < kBlock) {
    for (int64_t i = 0; i < kBlock; ++i) values[i] = i < count ? x[i] : 0.0f;
    x = values;
  }
  Vec v[kBlockVecs];
  Vec peaks = {}, poison = {};
  for (int i = 0; i < kBlockVecs; ++i) {
    v[i] = load(x + i * kLanes);
    peaks = max(peaks, max(v[i], -v[i]));
    poison += v[i] - v[i];  // 0, or NaN for what is not finite
  }
  const float peak = max_lane(peaks);
  const bool tiny = !(peak > 0x1p-100f);
  const float inverse = tiny ? 0.0f : 127.0f / peak;
  out.scale = (tiny ? 0.0f : peak / 127.0f) + sum(poison);
  int32_t codes[kBlock];
  for (int i = 0; i < kBlockVecs; ++i) {
    const Vec shifted = v[i] * set1(inverse) + set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    IntVec bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits -= 0x4B400000;
    std::memcpy(codes + i * kLanes, &bits, sizeof bits);
  }
  int32_t total = 0;
  for (int64_t i = 0; i < kBlock; ++i) {
    out.codes[i] = static_cast<int8_t>(codes[i]);
    total += out.codes[i];
  }
  out.start = static_cast<int32_t>(-kZeroCode) * total;
}

float scale_at(const char* p) {
  F16 half;
  std::memcpy(&half, p, sizeof half);
  return to_float(half);
}

/// What the row of x gives with one panel, bias not added: sums [32].
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

/// One panel block as the dense one; returns the next.
const char* expand_cells(const char* block, char* out) {
  std::memset(out, static_cast<int>(kZeroCode), kGroups * kRows * 4);
  const char* code = block + kHeadBytes;
  for (int64_t word = 0; word < kMaskBytes / 8; ++word) {
    uint64_t live;
    std::memcpy(&live, block + word * 8, sizeof live);
    for (; live != 0; live &= live - 1) out[word * 64 + __builtin_ctzll(live)] = *code++;
  }
  return code;
}

#if defined(CAROUSEL_BYTE_EXPAND)
// How far ahead of the block its bytes are asked for.
constexpr int64_t kPrefetchBytes = 4096;

/// 64 cells of a dense panel; advances `code` past those that are live.
CAROUSEL_BYTE_EXPAND __attribute__((always_inline)) inline __m512i expand(const char* masks, int64_t word,
                                                                          const char*& code) {
  uint64_t live;
  std::memcpy(&live, masks + word * 8, sizeof live);
  __m512i codes = _mm512_loadu_si512(code);
  asm("" : "+v"(codes));  // in a register: from memory the instruction is slow
  code += __builtin_popcountll(live);
  return _mm512_mask_expand_epi8(_mm512_set1_epi8(static_cast<char>(kZeroCode)), live, codes);
}

CAROUSEL_BYTE_EXPAND void multiply_expanding(const char* panel, const XBlock* x, int64_t blocks, float* sums) {
  __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (; blocks > 0; --blocks, ++x) {
    for (int64_t line = 0; line < 8; ++line) __builtin_prefetch(panel + kPrefetchBytes + line * 64, 0, 3);
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

CAROUSEL_BYTE_EXPAND const char* expand_block(const char* block, char* out) {
  for (int64_t line = 0; line < 8; ++line) __builtin_prefetch(block + kPrefetchBytes + line * 64, 0, 3);
  const char* code = block + kHeadBytes;
#pragma GCC unroll 16
  for (int64_t word = 0; word < kMaskBytes / 8; ++word) _mm512_storeu_si512(out + word * 64, expand(block, word, code));
  return code;
}
#else
void multiply_expanding(const char* panel, const XBlock* x, int64_t blocks, float* sums) {
  multiply_cells(panel, x, blocks, sums);
}
const char* expand_block(const char* block, char* out) { return expand_cells(block, out); }
#endif

const char* panel_of(const SparseBlocksPart& part, int64_t index) {
  return reinterpret_cast<const char*>(part.bytes) + part.first_bytes[index];
}

/// Panel `index` of all parts' panels in one list.
void run_panel(const SparseBlocksRow& a, int64_t index, bool expands) {
  const SparseBlocksPart* part = a.parts;
  for (; index >= ceil_div(part->rows, kRows); ++part) index -= ceil_div(part->rows, kRows);
  const auto* const x = reinterpret_cast<const XBlock*>(a.packed);
  const int64_t first_row = index * kRows, rows = least(part->rows - first_row, kRows);
  alignas(64) float sums[kRows];
  (expands ? multiply_expanding : multiply_cells)(panel_of(*part, index), x, ceil_div(a.K, kBlock), sums);
  float* const y = a.y + part->first_col + first_row;
  if (part->bias == nullptr) {
    for (int64_t r = 0; r < rows; ++r) y[r] = sums[r];
  } else {
    for (int64_t r = 0; r < rows; ++r) y[r] = sums[r] + part->bias[first_row + r];
  }
}

}  // namespace

void sparse_blocks_row(const Stream& stream, const SparseBlocksRow& a) {
  const bool expands = has_byte_expand();
  auto* const x = reinterpret_cast<XBlock*>(a.packed);
  for (int64_t b = 0; b < ceil_div(a.K, kBlock); ++b)
    round_block(a.x + b * kBlock, least(kBlock, a.K - b * kBlock), x[b]);
  int64_t panels = 0;
  for (int64_t i = 0; i < a.part_count; ++i) panels += ceil_div(a.parts[i].rows, kRows);
  const int64_t tasks = least(panels, stream.pool->threads() * kTasksPerThread);
  parallel_for(*stream.pool, tasks, [&](int64_t task) {
    for (int64_t p = task * panels / tasks; p < (task + 1) * panels / tasks; ++p) run_panel(a, p, expands);
  });
}

void sparse_blocks_expand(const Stream& stream, const SparseBlocksExpand& a) {
  const bool expands = has_byte_expand();
  const int64_t blocks = ceil_div(a.K, kBlock);
  parallel_for(*stream.pool, a.panels, [&](int64_t i) {
    const char* block = panel_of(*a.part, a.first_panel + i);
    char* out = reinterpret_cast<char*>(a.out) + i * blocks * Weight::kQ8PanelBlockBytes;
    for (int64_t b = 0; b < blocks; ++b, out += Weight::kQ8PanelBlockBytes) {
      std::memcpy(out + kGroups * kRows * 4, block + kMaskBytes, 2 * kRows);
      block = expands ? expand_block(block, out) : expand_cells(block, out);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
