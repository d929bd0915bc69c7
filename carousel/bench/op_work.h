// SPDX-License-Identifier: Apache-2.0
// The operands of an op that is timed. They exist several times, so that each call finds its own in memory and not in a
// cache, as in a model.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "carousel/bench/ops.h"
#include "carousel/ops/norm/norm.h"
#include "carousel/ops/tape.h"
#include "carousel/ops/weight/weight.h"

namespace carousel::bench {

constexpr uint64_t kDrawSeed = 1;

struct Shapes {
  const OpOptions& options;
  int64_t batch, rows, depth;
  DType weights;
  const Stream& stream;
  int64_t sparsity = 0;

  int64_t all_rows() const { return batch * rows; }
  Memory& memory() const { return *stream.memory; }
  std::vector<int64_t> lengths() const { return std::vector<int64_t>(static_cast<size_t>(batch), rows); }
  std::vector<int64_t> depths() const { return std::vector<int64_t>(static_cast<size_t>(batch), depth); }
};

Tensor drawn(Shape shape, float scale = 1.0f, Memory& memory = Memory::host());

/// How many copies of `bytes` exceed the caches together; at most kMostCopies. Throws Error(kUsage) if they do not fit
/// in memory.
size_t ring_of(double bytes, const Memory& memory = Memory::host());

/// One copy of a call's sequences: their states, bound for `rows` rows from position `depth`.
struct OpBatch {
  OpBatch(const StateLayout& layout, const Shapes& shapes);

  std::vector<State> states;
  StateBatch bound;
  Seqs seqs;
};

/// The copies of an op's operands.
struct Work {
  explicit Work(Memory& where) : memory(where), arena(where) {}

  Memory& memory;
  Arena arena;
  Trained trained;
  std::vector<Tensor> gradients;  // of masters
  std::vector<Tensor> d;          // of the results; drawn once
  StateLayout layout;             // outlives the batches, which refer to it
  std::vector<Tensor> x, y, out, out2;
  std::vector<Weight> weights;
  std::vector<std::unique_ptr<OpBatch>> batches;

  void draw(size_t ring, const Shape& shape);
  /// Has the gradient of a master computed; one that is not on the host has none.
  void train(const Tensor& master);
  /// Draws x and y [rows, width], and a norm whose weight [width] is trained.
  ops::Norm draw_normed(size_t ring, int64_t rows, int64_t width);
  void hold(size_t ring);
  Tensor& result(size_t i) { return out[i % out.size()]; }
  void add_states(size_t ring, const Shapes& shapes);
};

/// A call on copy i; returns its results.
using Call = std::function<std::vector<Tensor>(Ctx& ctx, size_t i)>;
/// Makes `call` what the case runs, and times its gradient too where that is asked for.
void set_call(OpCase& result, const std::shared_ptr<Work>& work, const Shapes& shapes, const Call& call);

}  // namespace carousel::bench
