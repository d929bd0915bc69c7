// SPDX-License-Identifier: Apache-2.0
// What an op may reach: the stream it runs on, the arena its results come from, and how numbers are handled. Nothing is
// global.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/ops/numerics.h"

namespace carousel {

/// The ragged batch: rows of all sequences laid end to end. A sequence may have no row.
struct Seqs {
  std::vector<int64_t> offsets;  // [B+1] rows of sequence s: offsets[s] .. offsets[s+1]
  std::vector<int64_t> pos;      // [B] position of each sequence's first row (rotary angle, chunk grid)
  Tensor dt;                     // [N] f32 time elapsed before each row (cfc, ltc), or empty: 1 everywhere

  int64_t batch() const { return static_cast<int64_t>(pos.size()); }
  int64_t rows() const { return offsets.empty() ? 0 : offsets.back(); }
  int64_t length(int64_t s) const { return offsets[static_cast<size_t>(s) + 1] - offsets[static_cast<size_t>(s)]; }
};

/// Told what passes between the sublayers of a model while it runs.
class Observer {
 public:
  virtual ~Observer() = default;
  /// x [N, D] after `count` sublayers: 0 is what entered the first. Valid during the call only.
  virtual void residual(size_t count, const Tensor& x) = 0;
};

struct Ctx {
  const Stream& stream;
  Arena& arena;
  const Numerics& numerics = Numerics::native();
  Observer* observer = nullptr;
};

/// Columns of a row-major f32 matrix: row n starts at data + n * stride.
struct View {
  float* data = nullptr;
  int64_t stride = 0;
};
inline View columns(const Tensor& matrix, int64_t first) {
  return {matrix.raw() == nullptr ? nullptr : matrix.f32() + first, matrix.dim(1)};
}

}  // namespace carousel
