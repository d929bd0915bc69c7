// SPDX-License-Identifier: Apache-2.0
// What the kernels of attention on the GPU share: where pages lie, and the memory between the kernels of one call.
#pragma once

#include <cuda_bf16.h>

#include "carousel/cuda/reduce.cuh"
#include "carousel/cuda/sequences.cuh"
#include "carousel/ops/attention/attention_cpu.h"

namespace carousel::cuda {

constexpr int kPage = static_cast<int>(kPageRows);
constexpr int kSplits = 32;  // of a row's keys, where each has a block

/// Pages of a sequence that are read for `rows` rows from position `pos` on.
__host__ __device__ constexpr int64_t pages_of(int64_t rows, int64_t pos) {
  return rows == 0 ? 0 : (pos + rows + kPage - 1) / kPage;
}

/// The rotation of a pair of elements. The angle is rounded to f32 as the reference does; its cosine and sine are exact
/// to the last bit but one: whole turns are taken from it in f64, where little else is needed.
struct Rotation {
  float cosine, sine;

  __device__ Rotation(int64_t pos, float inv_freq) {
    constexpr double kTurn = 6.283185307179586;
    const double angle = static_cast<double>(static_cast<float>(pos) * inv_freq);
    const double rest = fma(-rint(angle * (1 / kTurn)), kTurn, angle);
    const auto high = static_cast<float>(rest), low = static_cast<float>(rest - static_cast<double>(high));
    float of_sine, of_cosine;
    sincosf(high, &of_sine, &of_cosine);
    cosine = fmaf(-of_sine, low, of_cosine);
    sine = fmaf(of_cosine, low, of_sine);
  }
  __device__ float first(float a, float b) const { return a * cosine - b * sine; }
  __device__ float second(float a, float b) const { return b * cosine + a * sine; }
};

struct AttentionCall {
  ops::AttentionArgs args;
  float *own_k, *own_v;  // pages of a batch that keeps no state: [rows / 64 + B, G, d, 64]
  float* splits;         // [N, H, kSplits, d + 2] o, max and total of each split; null: a block has whole rows
  // For tiles (attention_tiles_cuda.cuh): prepared queries, and all pages end to end, in bf16.
  __nv_bfloat16* q;  // [N, H, d]
  __nv_bfloat16* k;  // [pages, G, d, 64]
  __nv_bfloat16* v;  // [pages, G, 64, d]
  int64_t pages;

  __device__ int64_t page_floats() const { return args.kv_heads * args.head_dim * kPage; }
  /// Page p of sequence s. A batch without states has its pages end to end, with room for one begun page each.
  __device__ float* page(float* const* const* table, float* own, int64_t s, int64_t p) const {
    return table != nullptr ? table[s][p] : own + (args.seqs.there[s] / kPage + s + p) * page_floats();
  }
  __device__ float* k_page(int64_t s, int64_t p) const { return page(args.k_pages, own_k, s, p); }
  __device__ float* v_page(int64_t s, int64_t p) const { return page(args.v_pages, own_v, s, p); }
  __device__ const float* row(int64_t n) const {
    return static_cast<const float*>(args.qkv.data) + n * args.qkv.stride;
  }
};

}  // namespace carousel::cuda
