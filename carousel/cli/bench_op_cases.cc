// SPDX-License-Identifier: Apache-2.0
// What each op of `bench --op` works on: inputs, states and a count of the operations and bytes its formula needs, not
// of those the kernel happens to spend.
#include <fmt/format.h>

#include <memory>

#include "carousel/cli/bench_ops.h"
#include "carousel/core/error.h"
#include "carousel/core/rng.h"
#include "carousel/ops/slstm.h"

namespace carousel::cli {
namespace {

constexpr double kRingBytes = 256e6;  // many times the last-level cache of most machines
constexpr uint64_t kSeed = 1;

Tensor drawn(Shape shape, float scale = 1.0f) {
  Tensor tensor(shape, DType::kF32);
  constexpr int64_t kDistinct = int64_t{1} << 16;
  Rng rng(kSeed);
  float* values = tensor.f32();
  for (int64_t i = 0, count = tensor.count(); i < count; ++i) {
    values[i] = i < kDistinct ? scale * static_cast<float>(rng.normal()) : values[i - kDistinct];
  }
  return tensor;
}

/// One copy of a call's sequences: their states, bound for `rows` rows from position `depth`.
struct Batch {
  Batch(const StateLayout& layout, int64_t batch, int64_t rows, int64_t depth)
      : states(static_cast<size_t>(batch)), lengths(static_cast<size_t>(batch), rows) {
    std::vector<State*> pointers;
    for (State& state : states) pointers.push_back(&state);
    bound.bind(layout, pointers, lengths);
    for (int64_t s = 0; s <= batch; ++s) seqs.offsets.push_back(s * rows);
    seqs.pos.assign(static_cast<size_t>(batch), depth);
  }
  std::vector<State> states;
  std::vector<int64_t> lengths;
  StateBatch bound;
  Seqs seqs;
};

struct Shapes {
  const OpOptions& options;
  int64_t batch, rows, depth;
  const Stream& stream;
};

size_t ring_of(double bytes) { return static_cast<size_t>(kRingBytes / std::max(bytes, 1.0)) + 1; }

// Operations of a vector exp, log-sigmoid, tanh and sigmoid as cpu/vec.h computes them, and the rest of a step.
constexpr double kSlstmElementFlops = 25 + 48 + 30 + 28 + 19;

OpCase slstm_case(const Shapes& shapes) {
  const OpOptions& o = shapes.options;
  struct Work {
    ops::SlstmDims dims;
    StateLayout layout;
    Tensor packed;
    std::vector<Tensor> wx, out;
    std::vector<std::unique_ptr<Batch>> batches;
    Arena arena;
  };
  const auto work = std::make_shared<Work>();
  work->dims.heads = o.heads > 0 ? o.heads : 4;
  work->dims.dh = o.head_dim > 0 ? o.head_dim : 256;
  const int64_t heads = work->dims.heads, dh = work->dims.dh, width = heads * dh, rows = shapes.batch * shapes.rows;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dh)));
  work->packed = ops::pack_slstm_recurrent(drawn({heads, dh, 4 * dh}, scale), work->dims);
  work->layout.add("0", {{"y", DType::kF32, {width}},
                         {"c", DType::kF32, {width}},
                         {"n", DType::kF32, {width}},
                         {"m", DType::kF32, {width}}});
  OpCase result;
  result.shape = fmt::format("B={} T={} H={} d={}", shapes.batch, shapes.rows, heads, dh);
  result.rows = rows;
  const auto elements = static_cast<double>(rows * width), f32 = static_cast<double>(sizeof(float));
  const double matrix = static_cast<double>(heads * dh * 4 * dh) * f32;
  const double state = 4 * f32 * static_cast<double>(shapes.batch * width);
  result.flops = elements * (8 * static_cast<double>(dh) + kSlstmElementFlops);
  result.read_bytes = 4 * f32 * elements + matrix + state;
  result.written_bytes = f32 * elements + state;
  result.cache_bytes = matrix * static_cast<double>(shapes.rows);  // once per step, however many sequences
  result.cached_bytes = static_cast<size_t>(matrix) / static_cast<size_t>(shapes.stream.pool->threads());
  result.ring = ring_of(5 * f32 * elements);
  for (size_t i = 0; i < result.ring; ++i) {
    work->wx.push_back(drawn({rows, 4 * width}));
    work->batches.push_back(std::make_unique<Batch>(work->layout, shapes.batch, shapes.rows, 0));
  }
  work->out.resize(result.ring);
  result.run = [work, &stream = shapes.stream](size_t i) {
    Ctx ctx{stream, work->arena};
    Batch& batch = *work->batches[i];
    work->out[i] = ops::slstm(ctx, work->wx[i], work->packed, work->dims, batch.seqs, batch.bound.layer(0));
  };
  return result;
}

}  // namespace

std::vector<OpCase> op_cases(const OpOptions& options, const std::vector<int64_t>& depths, const std::string&,
                             const Stream& stream) {
  std::vector<int64_t> rows = options.rows;
  if (rows.empty()) rows = {512};
  std::vector<OpCase> cases;
  for (const int64_t depth : depths) {
    for (const int64_t batch : options.batch) {
      for (const int64_t count : rows) cases.push_back(slstm_case({options, batch, count, depth, stream}));
    }
  }
  return cases;
}

}  // namespace carousel::cli
