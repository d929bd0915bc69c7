// SPDX-License-Identifier: Apache-2.0
// How Hopper's copies of tiles (async.cuh) are told of a matrix in global memory.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace carousel::cuda {

constexpr int kTileRows = 64, kTileColumnsOfMap = 64, kTileBytes = 8192;

/// A matrix of bf16 in global memory, as a copy of tiles of 64 rows by 64 columns sees it. Rows of a tile are 128 bytes
/// in shared memory, and their 16-byte pieces are swizzled: piece c of row r lies at place c ^ (r % 8). Throws
/// Error(kDevice).
CUtensorMap tile_map(const void* matrix, int64_t rows, int64_t columns, int64_t stride);
/// Whether tile_map() can describe such a matrix: rows begin at multiples of 16 bytes.
inline bool fits_tile_map(const void* matrix, int64_t stride) {
  return reinterpret_cast<uintptr_t>(matrix) % 16 == 0 && stride % 8 == 0;
}

}  // namespace carousel::cuda
