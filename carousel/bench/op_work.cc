// SPDX-License-Identifier: Apache-2.0
// Drawn operands, bound sequences, and a call with its gradient.
#include "carousel/bench/op_work.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>

#include "carousel/bench/byte_units.h"
#include "carousel/core/error.h"
#include "carousel/core/rng.h"

namespace carousel::bench {
namespace {

constexpr double kRingBytes = 256e6;  // many times the last-level cache of most machines
constexpr double kMostCopies = 4096;  // small shapes then fit in a cache together
constexpr size_t kMostResults = 64;

void fill(float* values, int64_t count, float scale) {
  constexpr int64_t kDistinct = int64_t{1} << 16;
  Rng rng(kDrawSeed);
  for (int64_t i = 0; i < count; ++i)
    values[i] = i < kDistinct ? scale * static_cast<float>(rng.normal()) : values[i - kDistinct];
}

/// An operand in the arena while this lives: a tape tells such tensors apart.
class Watched {
 public:
  Watched(Tape& tape, Arena& arena, Tensor& operand) : place_(operand), drawn_(operand) {
    operand = arena.empty(drawn_.shape());
    std::memcpy(operand.raw(), drawn_.raw(), drawn_.size_bytes());
    tape.watch(operand);
  }
  ~Watched() { place_ = drawn_; }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;

 private:
  Tensor& place_;
  Tensor drawn_;
};

double time_backward(Work& work, const Stream& stream, const Call& call, size_t i) {
  Tape tape(work.trained);
  const Watched x(tape, work.arena, work.x[i % work.x.size()]);
  std::optional<Watched> y;
  if (!work.y.empty()) y.emplace(tape, work.arena, work.y[i]);
  Ctx ctx{stream, work.arena};
  ctx.tape = &tape;
  Grads grads(tape);
  {
    const std::vector<Tensor> results = call(ctx, i);
    ctx.tape = nullptr;
    if (work.d.empty()) {
      for (const Tensor& result : results) work.d.push_back(drawn(result.shape()));
    }
    for (size_t r = 0; r < results.size(); ++r) grads.give(ctx, results[r], work.d[r]);
  }
  const auto start = std::chrono::steady_clock::now();
  tape.backward(ctx, grads);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// A sequence that has seen `depth` rows of random keys and values, and nothing else.
State seen(const StateLayout& layout, int64_t depth) {
  NamedTensors tensors = State().tensors(layout);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const StateLayout::Entry& entry = layout.entries()[i];
    if (!entry.spec.per_token) continue;
    std::vector<int64_t> sizes = {(depth + kPageRows - 1) / kPageRows};
    for (int64_t d = 0; d < entry.spec.shape.rank(); ++d) sizes.push_back(entry.spec.shape[d]);
    tensors[i].tensor = drawn(Shape(sizes));
  }
  return State::from(tensors, depth, layout);
}

}  // namespace

Tensor drawn(Shape shape, float scale, Memory& memory) {
  Tensor tensor(shape, DType::kF32);
  fill(tensor.f32(), tensor.count(), scale);
  return tensor.to(memory);
}

size_t ring_of(double bytes, const Memory& memory) {
  const double count = std::min(std::floor(kRingBytes / std::max(bytes, 1.0)) + 1, kMostCopies);
  const auto available = static_cast<double>(std::min(available_memory_bytes(), memory.available_bytes()));
  if (count * bytes > 0.8 * available) {
    fail(ErrorKind::kUsage, "bench --op: the shape needs {}, there are {}, expected a smaller one",
         in_binary_units(count * bytes), in_binary_units(available));
  }
  return static_cast<size_t>(count);
}

OpBatch::OpBatch(const StateLayout& layout, const Shapes& shapes) : states(static_cast<size_t>(shapes.batch)) {
  std::vector<State*> pointers;
  for (State& state : states) pointers.push_back(&state);
  if (layout.paged_count() > 0 && shapes.depth > 0) {
    for (State& state : states) state = seen(layout, shapes.depth);
  }
  bound.bind(layout, pointers, shapes.lengths(), shapes.memory());
  for (int64_t s = 0; s <= shapes.batch; ++s) seqs.offsets.push_back(s * shapes.rows);
  seqs.pos.assign(states.size(), shapes.depth);
  seqs.bring_to(shapes.memory());
}

void Work::draw(size_t ring, const Shape& shape) {
  for (size_t i = 0; i < ring; ++i) x.push_back(drawn(shape, 1.0f, memory));
  hold(ring);
}

ops::Norm Work::draw_normed(size_t ring, int64_t rows, int64_t width) {
  ops::Norm norm;
  norm.weight = drawn({width}, 1.0f, memory);
  train(norm.weight);
  draw(ring, {rows, width});
  for (size_t i = 0; i < ring; ++i) y.push_back(drawn({rows, width}, 1.0f, memory));
  return norm;
}

void Work::train(const Tensor& master) {
  if (master.memory().is_apart()) return;
  gradients.emplace_back(master.shape(), DType::kF32);
  trained.add(master, gradients.back().f32());
}

void Work::hold(size_t ring) {
  // The arena searches the blocks it holds: with many small results that search would be timed. They stay in a cache
  // anyway.
  out.resize(std::min(ring, kMostResults));
  out2.resize(out.size());
}

void Work::add_states(size_t ring, const Shapes& shapes) {
  for (size_t i = 0; i < ring; ++i) batches.push_back(std::make_unique<OpBatch>(layout, shapes));
}

void set_call(OpCase& result, const std::shared_ptr<Work>& work, const Shapes& shapes, const Call& call) {
  const Stream& stream = shapes.stream;
  result.run = [work, call, &stream](size_t i) {
    Ctx ctx{stream, work->arena};
    std::vector<Tensor> results = call(ctx, i);
    if (results.size() > 1) work->out2[i % work->out2.size()] = std::move(results[1]);
    work->result(i) = std::move(results[0]);
  };
  if (!shapes.options.backward) return;
  result.backward = [work, call, &stream](size_t i) { return time_backward(*work, stream, call, i); };
}

}  // namespace carousel::bench
