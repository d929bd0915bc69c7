// SPDX-License-Identifier: Apache-2.0
// Ctx is all that an op may reach: the stream it runs on, the arena of its results, and how numbers are handled.
// Nothing is global.
#pragma once

#include <cstdint>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/core/stream.h"
#include "carousel/core/tensor.h"
#include "carousel/ops/columns.h"
#include "carousel/ops/numerics.h"

namespace carousel {

/// The ragged batch as kernels see it; the fields are those of Seqs.
struct SeqsView {
  const int64_t* offsets = nullptr;  // [B+1]
  const int64_t* pos = nullptr;      // [B]
  const float* dt = nullptr;         // [N], or null: 1 everywhere
  int64_t batch = 0;                 // B
  const int64_t* there = nullptr;    // [2B+1] offsets, then pos, in the stream's memory; null where that is the host's

  int64_t first_row(int64_t s) const { return offsets[s]; }
  int64_t length(int64_t s) const { return offsets[s + 1] - offsets[s]; }
  int64_t rows() const { return offsets[batch]; }
};

/// The ragged batch: rows of all sequences laid end to end. A sequence may have no row.
struct Seqs {
  std::vector<int64_t> offsets;  // [B+1] rows of sequence s: offsets[s] .. offsets[s+1]
  std::vector<int64_t> pos;      // [B] position of each sequence's first row (rotary angle, chunk grid)
  Tensor dt;                     // [N] f32 time elapsed before each row (cfc, ltc), or empty: 1 everywhere
  Tensor there;                  // [at least 2B+1] i64: offsets, then pos, as bring_to() copied them; or empty

  int64_t batch() const { return static_cast<int64_t>(pos.size()); }
  int64_t rows() const { return offsets.empty() ? 0 : offsets.back(); }
  int64_t length(int64_t s) const { return offsets[static_cast<size_t>(s) + 1] - offsets[static_cast<size_t>(s)]; }
  SeqsView view() const;
  /// Copies offsets and positions to `memory` where code of the host cannot be read from it. Call it after a change.
  void bring_to(Memory& memory);
};

inline SeqsView Seqs::view() const {
  const auto* const dt_n = static_cast<const float*>(dt.raw());
  return {offsets.data(), pos.data(), dt_n, batch(), static_cast<const int64_t*>(there.raw())};
}

/// Is told the residual stream between the sublayers of a model while it runs.
class Observer {
 public:
  virtual ~Observer() = default;
  /// x [N, D] after `count` sublayers; count 0 is the input of the first one. x is valid during the call only.
  virtual void residual(size_t count, const Tensor& x) = 0;
};

class Tape;

struct Ctx {
  const Stream& stream;                           // where the op runs
  Arena& arena;                                   // gives the op's results their memory
  const Numerics& numerics = Numerics::native();  // how numbers are handled
  Observer* observer = nullptr;                   // null: nobody is told
  Tape* tape = nullptr;  // records how gradients are computed (ops/tape.h); null: nothing is kept

  /// Throws Error(kUsage) under a tape: `op` has no backward. A gradient is right or refused, never a silent zero.
  void without_backward(const char* op) const;

  /// Scratch memory of one kernel call [bytes] u8, 64-byte aligned, contents unspecified; empty for no bytes.
  Tensor workspace(int64_t bytes) const { return bytes > 0 ? arena.empty({bytes}, DType::kU8) : Tensor(); }
};

}  // namespace carousel
