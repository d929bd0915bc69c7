// SPDX-License-Identifier: Apache-2.0
// Times of the kernels of a GPU that have a plain twin, beside the twin's and beside the card's own copy rate, at the
// shapes that docs/performance.md promises. A fast kernel that is no faster than its twin fails. On a CPU there are no
// twins, and nothing is timed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "carousel/core/state.h"
#include "carousel/ops/linear/linear.h"
#include "carousel/ops/mlstm/mlstm.h"
#include "carousel/ops/slstm/slstm.h"
#include "tests/ops/attention/attention_reference.h"
#include "tests/ops/drawn.h"
#include "tests/ops/machine.h"

namespace carousel {
namespace {

constexpr int kSamples = 9;

/// Waits for all that was asked of a GPU: a copy to the host does.
void wait_for(const Machine& machine) {
  static const Tensor one({1}, DType::kF32);
  one.to(machine.memory()).to_host();
}

/// Median seconds of one call, `calls` of them at a time, by the clock of the GPU.
double seconds_of(const Machine& machine, int calls, const std::function<void(int)>& run) {
  std::vector<double> times;
  run(0);
  for (int i = 0; i < kSamples; ++i) {
    wait_for(machine);
    const auto start = machine.memory().moment();
    for (int c = 0; c < calls; ++c) run(c);
    times.push_back(machine.memory().moment()->seconds_since(*start) / calls);
  }
  std::nth_element(times.begin(), times.begin() + kSamples / 2, times.end());
  return times[kSamples / 2];
}

/// Bytes a second, read and written, of a copy that no cache holds.
double copy_rate(const Machine& machine) {
  constexpr int64_t kBytes = int64_t{1} << 30;
  const Tensor from({kBytes}, DType::kU8, machine.memory()), to({kBytes}, DType::kU8, machine.memory());
  Memory& memory = machine.memory();
  const double seconds = seconds_of(machine, 4, [&](int) {
    Memory::copy(memory, static_cast<const std::byte*>(from.raw()), memory, static_cast<std::byte*>(to.raw()), kBytes);
  });
  return 2.0 * kBytes / seconds;
}

/// [rows, columns] on the machine, a block of drawn rows again and again.
Tensor repeated(const Machine& machine, int64_t rows, int64_t columns, DType dtype, float scale) {
  const int64_t block_rows = std::min<int64_t>(rows, 64);
  const Tensor block = random_tensor({block_rows, columns}, 3, scale);
  Tensor narrow_block({block_rows, columns}, dtype);
  narrow(block.f32(), dtype, narrow_block.raw(), static_cast<size_t>(block.count()));
  const Tensor out({rows, columns}, dtype, machine.memory());
  const size_t bytes = narrow_block.size_bytes();
  for (size_t at = 0; at < out.size_bytes(); at += bytes) {
    Memory::copy(Memory::host(), static_cast<const std::byte*>(narrow_block.raw()), machine.memory(),
                 static_cast<std::byte*>(out.raw()) + at, std::min(bytes, out.size_bytes() - at));
  }
  return out;
}

/// The time of a call as it is, and with the plain twin of its kernel.
struct Times {
  double fast, plain;
};
Times both(const Machine& machine, cuda::Fast kernel, int calls, const std::function<void(int)>& run) {
  auto& gpu = static_cast<cuda::Gpu&>(machine.memory());
  Times times;
  times.fast = seconds_of(machine, calls, run);
  gpu.run_plain(static_cast<uint32_t>(kernel));
  times.plain = seconds_of(machine, calls, run);
  gpu.run_plain(0);
  return times;
}

struct MlstmShape {
  int64_t batch, rows;
  ops::MlstmDims dims;
  bool states;
  double target_ms;  // of docs/performance.md, on an H200; 0: none
};

void time_mlstm(Machine& machine, const MlstmShape& shape, DType dtype) {
  const ops::MlstmDims& dims = shape.dims;
  const int64_t rows = shape.batch * shape.rows, qk = dims.heads * dims.dk, v = dims.heads * dims.dv;
  const Tensor q = repeated(machine, rows, qk, dtype, 1), k = repeated(machine, rows, qk, dtype, 1);
  const Tensor values = repeated(machine, rows, v, dtype, 1);
  const Tensor gates = repeated(machine, rows, 2 * dims.heads, DType::kF32, 2);
  const ops::MlstmInputs inputs = {columns(q), columns(k), columns(values), columns(gates, 0, dims.heads),
                                   columns(gates, dims.heads, dims.heads)};
  const std::vector<int64_t> lengths(static_cast<size_t>(shape.batch), shape.rows);
  const Seqs seqs = machine.on(sequences(lengths));
  StateLayout layout;
  layout.add("0", {{"C", DType::kF32, {dims.heads, dims.dk, dims.dv}},
                   {"n", DType::kF32, {dims.heads, dims.dk}},
                   {"m", DType::kF32, {dims.heads}}});
  std::vector<State> states(lengths.size());
  std::vector<State*> pointers;
  for (State& state : states) pointers.push_back(&state);
  StateBatch batch;
  if (shape.states) batch.bind(layout, pointers, lengths, machine.memory());
  const Times times = both(machine, cuda::Fast::kMlstm, 2, [&](int) {
    ops::mlstm(machine.ctx, inputs, dims, seqs, shape.states ? batch.layer(0) : LayerStates());
  });
  std::printf("  mlstm B=%lld T=%lld H=%lld %lld/%lld %s%s: %.3f ms, plain %.3f ms, target %.3f ms\n",
              static_cast<long long>(shape.batch), static_cast<long long>(shape.rows),
              static_cast<long long>(dims.heads), static_cast<long long>(dims.dk), static_cast<long long>(dims.dv),
              std::string(dtype_name(dtype)).c_str(), shape.states ? " with states" : "", times.fast * 1e3,
              times.plain * 1e3, shape.target_ms);
  EXPECT_LT(times.fast, times.plain);
}

TEST(GpuTimes, Mlstm) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target);
    machine.stream.compute = Compute::kBF16;
    const ops::MlstmDims large = {8, 256, 512, 15.0f}, small = {4, 128, 256, 15.0f};
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const double known = dtype == DType::kBF16 ? 1 : 0;
      time_mlstm(machine, {8, 8192, large, false, 0.85 * known}, dtype);
      time_mlstm(machine, {8, 8192, large, true, 0.89 * known}, dtype);
      time_mlstm(machine, {16, 2048, small, false, 0.094 * known}, dtype);
      time_mlstm(machine, {16, 2048, small, true, 0.099 * known}, dtype);
      time_mlstm(machine, {1, 16384, large, true, 0.8 * known}, dtype);
    }
  }
}

// Every copy of the weights is read in turn, so that no cache holds them.
TEST(GpuTimes, ProductsOfFewRows) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target);
    machine.stream.compute = Compute::kBF16;
    const double rate = copy_rate(machine);
    std::printf("  copy %.2f TB/s\n", rate * 1e-12);
    for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16, DType::kQ8, DType::kQ4}) {
      for (const auto& [M, K] :
           {std::pair<int64_t, int64_t>{12304, 4096}, {4096, 4096}, {22016, 4096}, {4096, 11008}}) {
        std::vector<Weight> ring;
        const std::vector<float> row = normals(K, 5);
        for (int i = 0; i < 4; ++i) {
          ring.emplace_back(M, K, dtype, Weight::Layout::kPanels, machine.memory());
          for (int64_t m = 0; m < M; m += M - 1) ring.back().write_rows(machine.stream, m, 1, row.data(), DType::kF32);
        }
        for (const int64_t N : {1, 4, 8}) {
          const Tensor x = repeated(machine, N, K, DType::kF32, 1);
          const Times times = both(machine, cuda::Fast::kStream, 8, [&](int i) {
            ops::linear(machine.ctx, x, {&ring[static_cast<size_t>(i) % ring.size()]});
          });
          const double bytes = static_cast<double>(ring[0].size_bytes());
          std::printf("  linear N=%lld K=%lld M=%lld %s: %.2f us, %.0f %% of copy, plain %.2f us\n",
                      static_cast<long long>(N), static_cast<long long>(K), static_cast<long long>(M),
                      std::string(dtype_name(dtype)).c_str(), times.fast * 1e6, 100 * bytes / times.fast / rate,
                      times.plain * 1e6);
          if (N == 1 && is_block(dtype)) {
            EXPECT_LT(times.fast, times.plain);
          }
        }
      }
    }
  }
}

/// The last `rows` rows of a sequence of `before` + `rows`; batches of sequences like it.
void time_attention(Machine& machine, ops::AttentionDims dims, int64_t batch, int64_t before, int64_t rows,
                    double rate) {
  for (Tensor* const tensor : {&dims.q_norm, &dims.k_norm, &dims.inv_freq}) *tensor = tensor->to(machine.memory());
  const StateLayout layout = attention_layout(dims);
  const int64_t columns = (dims.heads + 2 * dims.kv_heads) * dims.head_dim;
  const auto count = static_cast<size_t>(batch);
  std::vector<State> states(count);
  std::vector<State*> pointers;
  for (State& state : states) pointers.push_back(&state);
  const auto bound = [&](int64_t length, const std::function<void(LayerStates, Seqs&)>& use) {
    const std::vector<int64_t> lengths(count, length);
    Seqs seqs = sequences(lengths);
    for (size_t s = 0; s < count; ++s) seqs.pos[s] = states[s].pos();
    seqs.bring_to(machine.memory());
    StateBatch bound_batch;
    bound_batch.bind(layout, pointers, lengths, machine.memory());
    use(bound_batch.layer(0), seqs);
    bound_batch.advance(lengths);
  };
  if (before > 0) {
    const Tensor qkv = repeated(machine, batch * before, columns, DType::kF32, 1);
    bound(before, [&](LayerStates layer, Seqs& seqs) { ops::attention(machine.ctx, qkv, dims, seqs, layer); });
  }
  const Tensor qkv = repeated(machine, batch * rows, columns, DType::kF32, 1);
  bound(rows, [&](LayerStates layer, Seqs& seqs) {
    const Times times = both(machine, cuda::Fast::kAttention, rows == 1 ? 20 : 4,
                             [&](int) { ops::attention(machine.ctx, qkv, dims, seqs, layer); });
    const auto doubles = [](int64_t value) { return static_cast<double>(value); };
    const double pairs = doubles(batch * rows) * (doubles(before) + doubles(rows + 1) / 2);
    const double flops = 4 * pairs * doubles(dims.heads * dims.head_dim);
    const double bytes = 8 * doubles(batch * (before + rows) * dims.kv_heads * dims.head_dim);
    std::printf(
        "  attention %lld x %lld rows after %lld, %lld heads of %lld, %lld of keys: %.1f us (%.0f TFLOP/s; "
        "pages at %.0f %% of copy), plain %.1f us\n",
        static_cast<long long>(batch), static_cast<long long>(rows), static_cast<long long>(before),
        static_cast<long long>(dims.heads), static_cast<long long>(dims.head_dim),
        static_cast<long long>(dims.kv_heads), times.fast * 1e6, flops / times.fast * 1e-12,
        100 * bytes / times.fast / rate, times.plain * 1e6);
    EXPECT_LT(times.fast, times.plain);
  });
}

TEST(GpuTimes, Attention) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target);
    machine.stream.compute = Compute::kBF16;
    const double rate = copy_rate(machine);
    const ops::AttentionDims narrow = attention_dims(32, 8, 64), wide = attention_dims(32, 8, 128);
    time_attention(machine, narrow, 1, 0, 4096, rate);
    time_attention(machine, narrow, 1, 0, 8192, rate);
    time_attention(machine, wide, 1, 0, 8192, rate);
    time_attention(machine, wide, 1, 32768, 1, rate);
    time_attention(machine, narrow, 1, 32768, 1, rate);
    time_attention(machine, narrow, 64, 2048, 1, rate);
    time_attention(machine, narrow, 8, 1000, 1, rate);
  }
}

TEST(GpuTimes, SlstmStep) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;
    Machine machine(target);
    const ops::SlstmDims dims{4, 128};
    const int64_t batch = 16, rows = 512, width = dims.heads * dims.dh;
    ops::SlstmRecurrent recurrent(random_tensor({dims.heads, dims.dh, 4 * dims.dh}, 1, 0.05f).to(machine.memory()),
                                  dims);
    recurrent.pack(machine.stream);
    const Tensor wx = repeated(machine, batch * rows, 4 * width, DType::kF32, 1);
    const Seqs seqs = machine.on(sequences(std::vector<int64_t>(static_cast<size_t>(batch), rows)));
    const Times times =
        both(machine, cuda::Fast::kSlstm, 1, [&](int) { ops::slstm(machine.ctx, wx, recurrent, seqs, {}); });
    const double us = 1e6 / static_cast<double>(rows);
    std::printf("  slstm 4 heads of 128, 16 sequences: %.3f us a step, plain %.3f us, target 1 us\n", times.fast * us,
                times.plain * us);
    EXPECT_LT(times.fast, times.plain);
  }
}

}  // namespace
}  // namespace carousel
