// SPDX-License-Identifier: Apache-2.0
// What kernels of products are given: the weights of one call that have one type, and x and y.
#pragma once

#include "carousel/cuda/launch.cuh"
#include "carousel/ops/gate/gate.h"
#include "carousel/ops/linear/linear_cpu.h"
#include "carousel/ops/weight/elements_cuda.cuh"

namespace carousel::cuda {

constexpr int kTile = 64;  // rows and outputs of a tile

/// The weights of one call that have one type.
struct Parts {
  struct Part {
    const void* w;      // [rows] of row_bytes
    int64_t row_bytes;  // from a row to the next
    const float* bias;  // [rows], or null
    int64_t rows;
    int64_t first_row;   // rows of the parts before it
    int64_t first_tile;  // tiles of the parts before it
    int64_t first_col;   // column of y of its first output

    __device__ const char* row(int64_t m) const { return static_cast<const char*>(w) + m * row_bytes; }
  };
  Part list[ops::kMaxParts];
  int count = 0;
  int64_t rows = 0, tiles = 0;

  void add(const Weight& weight, int64_t first_col) {
    const void* const bias = weight.bias.raw();
    const int64_t bytes = is_block(weight.dtype())
                              ? split_row_bytes(weight.cols(), weight.dtype())
                              : static_cast<int64_t>(dtype_bytes(weight.dtype(), static_cast<size_t>(weight.cols())));
    list[count++] = {rows_of(weight, "linear of such a weight"),
                     bytes,
                     static_cast<const float*>(bias),
                     weight.rows(),
                     rows,
                     tiles,
                     first_col};
    rows += weight.rows();
    tiles += blocks_of(weight.rows(), kTile);
  }
  __device__ const Part& of_row(int64_t row) const {
    int i = 0;
    while (i + 1 < count && row >= list[i + 1].first_row) ++i;
    return list[i];
  }
  __device__ const Part& of_tile(int64_t tile) const {
    int i = 0;
    while (i + 1 < count && tile >= list[i + 1].first_tile) ++i;
    return list[i];
  }
};

struct Product {
  const float* x;  // [N, K]
  int64_t N, K;
  float* y;  // [N, y_stride]
  int64_t y_stride;
  // 0: y has the outputs. Else part 0 is the gate, part 1 what it lets through, of so many rows each, and y has the
  // units.
  int64_t units = 0;
  ops::Activation activation = ops::Activation::kSilu;
};

template <bool kRounds>
__device__ float rounded_input(float x) {
  return kRounds ? rounded(x) : x;
}

}  // namespace carousel::cuda
