// SPDX-License-Identifier: Apache-2.0
// ops::mlstm on a stream that computes in bf16: on a GPU with such tensor cores its chunks multiply bf16, elsewhere
// they are f32 and keep the same bounds. Inputs are bf16 values here, so that only the op's own roundings are measured.
// Its promises are those of f32: cuts on the chunk grid, states, and neighbours change no bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "carousel/core/error.h"
#include "tests/ops/mlstm/mlstm_runs.h"

namespace carousel {
namespace {

using ops::MlstmDims;

// h sums products of bf16: scores, C and v keep are each rounded by at most 2^-9, by 2^-9 / sqrt 3 in the mean, and
// errors of a sum's terms are independent. C sums v keep, rounded once. n and m are f32; n's decays go through exp.
constexpr double kBoundH = 6e-3, kBoundC = 3e-3, kBoundN = 1e-5;

struct Bf16Machine : Machine {
  explicit Bf16Machine(const Target& target) : Machine(target) { stream.compute = Compute::kBF16; }
};

Tensor rounded(const Tensor& x) {
  Tensor out = x.clone();
  for (int64_t i = 0; i < x.count(); ++i) out.f32()[i] = to_float(to_bf16(x.f32()[i]));
  return out;
}

MlstmTensors bf16_values(int64_t rows, const MlstmDims& dims, uint64_t seed) {
  MlstmTensors in = random_inputs(rows, dims, seed);
  in.q = rounded(in.q);
  in.k = rounded(in.k);
  in.v = rounded(in.v);
  return in;
}

/// The same values, stored as bf16.
Tensor narrowed(const Tensor& x) {
  Tensor out(x.shape(), DType::kBF16);
  narrow(x.f32(), DType::kBF16, out.raw(), static_cast<size_t>(x.count()));
  return out;
}
Tensor widened(const Tensor& x) {
  Tensor out(x.shape(), DType::kF32);
  widen(x.raw(), x.dtype(), out.f32(), static_cast<size_t>(x.count()));
  return out;
}

MlstmDims dims_of(int64_t heads, int64_t dk, int64_t dv, bool scale_keys = false) {
  return {heads, dk, dv, 15.0f, 1e-6f, scale_keys};
}

// The published ones, what is padded, and one whose keys are too wide for tensor cores.
const MlstmDims kShapes[] = {dims_of(2, 256, 512), dims_of(3, 128, 256), dims_of(2, 96, 192, true),
                             dims_of(1, 200, 130), dims_of(2, 64, 64),   dims_of(1, 5, 257, true),
                             dims_of(1, 300, 40)};

struct Sequences {
  explicit Sequences(const std::vector<int64_t>& all) : lengths(all), states(all.size()) {}

  std::vector<State*> pointers() {
    std::vector<State*> all;
    for (State& state : states) all.push_back(&state);
    return all;
  }

  std::vector<int64_t> lengths;
  std::vector<State> states;
};

double error_of(const float* got, const std::vector<double>& expected) { return relative_error(got, expected); }

/// Compares rows and states of every sequence and head with the recurrence in f64, which continues `before`.
struct Checker {
  const MlstmDims& dims;
  std::vector<std::vector<MlstmState64>> before;  // [B][H]

  Checker(const MlstmDims& all, size_t batch)
      : dims(all), before(batch, std::vector<MlstmState64>(static_cast<size_t>(all.heads), zero_state(all))) {}

  void check(const MlstmTensors& in, const Tensor& h, Sequences& sequences_of, const std::string& what) {
    const MlstmInputs64 in64 = in_f64(in);
    const Seqs seqs = sequences(sequences_of.lengths);
    for (size_t s = 0; s < sequences_of.lengths.size(); ++s) {
      const NamedTensors kept = sequences_of.states[s].tensors(layout_of(dims));
      for (int64_t head = 0; head < dims.heads; ++head) {
        MlstmState64& state = before[s][static_cast<size_t>(head)];
        const int64_t first = seqs.offsets[s], rows = sequences_of.lengths[s];
        const std::vector<double> expected = mlstm_rows(in64, dims, first, rows, head, &state);
        const std::string where = what + ", sequence " + std::to_string(s) + ", head " + std::to_string(head);
        EXPECT_LT(error_of(head_rows(h, dims, first, rows, head).data(), expected), kBoundH) << where;
        EXPECT_LT(error_of(kept[0].tensor.f32() + head * dims.dk * dims.dv, state.c), kBoundC) << where;
        EXPECT_LT(error_of(kept[1].tensor.f32() + head * dims.dk, state.n), kBoundN) << where;
        EXPECT_NEAR(kept[2].tensor.f32()[head], state.m, 2e-6 * std::max(1.0, std::abs(state.m))) << where;
      }
    }
  }
};

std::string name_of(const Target& target, const MlstmDims& dims) {
  return target.name() + " dk " + std::to_string(dims.dk) + " dv " + std::to_string(dims.dv);
}

TEST(MlstmBf16, AgreesWithTheRecurrenceFromStates) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    for (const MlstmDims& dims : kShapes) {
      // The second call begins where the first left off: in the middle of the grid, and at its borders.
      const std::vector<std::vector<int64_t>> calls = {{0, 1, 17, 63, 64, 65, 127, 130},
                                                       {70, 63, 47, 1, 128, 200, 2, 126}};
      Sequences sequences_of(calls[0]);
      Checker checker(dims, calls[0].size());
      for (const std::vector<int64_t>& lengths : calls) {
        sequences_of.lengths = lengths;
        const MlstmTensors in = bf16_values(sequences(lengths).rows(), dims, 70 + lengths.size());
        const Tensor h = advance(machine.ctx, in, dims, sequences_of.pointers(), lengths);
        checker.check(in, h, sequences_of, name_of(target, dims));
      }
    }
  }
}

TEST(MlstmBf16, OneLongSequence) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    const MlstmDims dims = dims_of(1, 256, 128);
    Sequences one({2049});
    const MlstmTensors in = bf16_values(2049, dims, 5);
    const Tensor h = advance(machine.ctx, in, dims, one.pointers(), one.lengths);
    Checker(dims, 1).check(in, h, one, name_of(target, dims));
  }
}

TEST(MlstmBf16, WithoutStatesTheSameBits) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    for (const MlstmDims& dims : kShapes) {
      const std::vector<int64_t> lengths = {1, 64, 65, 200};
      Sequences kept(lengths);
      const MlstmTensors in = bf16_values(330, dims, 11);
      const Tensor h = advance(machine.ctx, in, dims, kept.pointers(), lengths);
      const Tensor other =
          run(machine.ctx, on(machine.memory(), in), dims, machine.on(sequences(lengths)), {}).to_host();
      EXPECT_TRUE(same_bits(h, other)) << name_of(target, dims);
    }
  }
}

TEST(MlstmBf16, CutsOnTheChunkGridChangeNoBit) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    for (const MlstmDims& dims : {dims_of(2, 256, 128), dims_of(2, 128, 256), dims_of(1, 40, 200)}) {
      const MlstmTensors in = bf16_values(300, dims, 3);
      State whole, cut, off, off_again;
      const Tensor a = in_pieces(machine.ctx, in, dims, &whole, {300});
      const Tensor b = in_pieces(machine.ctx, in, dims, &cut, {64, 64, 192, 256, 300});
      EXPECT_TRUE(same_bits(a, b)) << name_of(target, dims);
      EXPECT_TRUE(same_state(whole, cut, dims)) << name_of(target, dims);
      in_pieces(machine.ctx, in, dims, &off, {50, 300});
      in_pieces(machine.ctx, in, dims, &off_again, {50, 64, 128, 300});
      EXPECT_TRUE(same_state(off, off_again, dims)) << name_of(target, dims);
    }
  }
}

TEST(MlstmBf16, NeighboursChangeNoBitWhateverTheyHold) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    for (const MlstmDims& dims : {dims_of(1, 256, 256), dims_of(2, 128, 128)}) {
      const std::vector<int64_t> lengths = {1, 130, 0, 64, 65, 20, 1, 2};
      const Seqs seqs = sequences(lengths);
      const MlstmTensors in = bf16_values(seqs.rows(), dims, 5);
      for (const size_t hot : {1, 3, 5}) {  // this sequence is full of infinities
        MlstmTensors spoilt = in;
        for (Tensor* const x : {&spoilt.q, &spoilt.k, &spoilt.v}) {
          *x = x->clone();
          const int64_t width = x->dim(1), end = seqs.offsets[hot + 1] * width;
          for (int64_t i = seqs.offsets[hot] * width; i < end; ++i)
            x->f32()[i] = std::numeric_limits<float>::infinity();
        }
        Sequences batched(lengths);
        const Tensor h = advance(machine.ctx, spoilt, dims, batched.pointers(), lengths);
        for (size_t s = 0; s < lengths.size(); ++s) {
          if (s == hot) continue;
          State alone;
          const Tensor own =
              advance(machine.ctx, in.rows(seqs.offsets[s], seqs.offsets[s + 1]), dims, {&alone}, {lengths[s]});
          EXPECT_TRUE(same_bits(own, h.rows(seqs.offsets[s], seqs.offsets[s + 1])))
              << name_of(target, dims) << " " << s;
          EXPECT_TRUE(same_state(alone, batched.states[s], dims)) << name_of(target, dims) << " " << s;
        }
      }
    }
  }
}

TEST(MlstmBf16, ExtremeGatesKeepTheBound) {
  const float extremes[] = {15, -15, 1e4f, -1e4f, 0, -90, 90};
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    MlstmDims dims = dims_of(1, 128, 128);
    dims.gate_soft_cap = 0;
    const MlstmTensors in = bf16_values(98, dims, 31);
    for (int64_t t = 0; t < 98; ++t) {
      in.i_pre.f32()[t] = extremes[t / 2 % 7];
      in.f_pre.f32()[t] = extremes[t / 14 % 7];
    }
    Sequences one({98});
    const Tensor h = advance(machine.ctx, in, dims, one.pointers(), one.lengths);
    for (int64_t i = 0; i < h.count(); ++i) ASSERT_TRUE(std::isfinite(h.f32()[i])) << i;
    Checker(dims, 1).check(in, h, one, name_of(target, dims));
  }
}

/// Columns of one bf16 matrix [N, 2 H Dk + H Dv], as a product of three weights leaves them.
ops::MlstmInputs columns_of(const Tensor& qkv, const MlstmTensors& gates, const MlstmDims& dims) {
  const int64_t qk = dims.heads * dims.dk, v = dims.heads * dims.dv;
  return {columns(qkv, 0, qk), columns(qkv, qk, qk), columns(qkv, 2 * qk, v), columns(gates.i_pre),
          columns(gates.f_pre)};
}
Tensor beside(const MlstmTensors& in) {
  const int64_t rows = in.q.dim(0), qk = in.q.dim(1), v = in.v.dim(1), width = 2 * qk + v;
  Tensor all({rows, width}, DType::kF32);
  for (int64_t t = 0; t < rows; ++t) {
    float* const to = all.f32() + t * width;
    std::copy_n(in.q.f32() + t * qk, qk, to);
    std::copy_n(in.k.f32() + t * qk, qk, to + qk);
    std::copy_n(in.v.f32() + t * v, v, to + 2 * qk);
  }
  return all;
}

TEST(MlstmBf16, NarrowInputsGiveTheSameResultsRounded) {
  for (const Target& target : targets()) {
    Bf16Machine machine(target);
    for (const MlstmDims& dims :
         {dims_of(2, 256, 128), dims_of(1, 128, 256), dims_of(2, 96, 192), dims_of(1, 300, 40)}) {
      const std::vector<int64_t> lengths = {130, 64, 1, 20, 128};
      const MlstmTensors in = bf16_values(sequences(lengths).rows(), dims, 15);
      const MlstmTensors there = on(machine.memory(), in);
      const Tensor narrow_there = narrowed(beside(in)).to(machine.memory());
      const Seqs seqs = machine.on(sequences(lengths));
      if (target.on_host()) {
        EXPECT_THROW(ops::mlstm(machine.ctx, columns_of(narrow_there, there, dims), dims, seqs, {}), Error);
        continue;
      }
      const Tensor h = run(machine.ctx, there, dims, seqs, {}).to_host();
      const Tensor other = ops::mlstm(machine.ctx, columns_of(narrow_there, there, dims), dims, seqs, {}).to_host();
      EXPECT_TRUE(same_bits(widened(other), rounded(h))) << name_of(target, dims);
    }
  }
}

TEST(MlstmBf16, PlainChunksAgreeWithTensorCores) {
  for (const Target& target : targets()) {
    if (target.on_host()) continue;  // there is one way on a CPU
    Bf16Machine machine(target);
    auto& gpu = static_cast<cuda::Gpu&>(machine.memory());
    const MlstmDims dims = dims_of(2, 256, 512);
    const MlstmTensors in = bf16_values(200, dims, 77);
    State fast, plain;
    const Tensor h = in_pieces(machine.ctx, in, dims, &fast, {200});
    gpu.run_plain(static_cast<uint32_t>(cuda::Fast::kMlstm));
    const Tensor other = in_pieces(machine.ctx, in, dims, &plain, {200});
    gpu.run_plain(0);
    EXPECT_LT(relative_error(h.f32(), std::vector<double>(other.f32(), other.f32() + other.count())), kBoundH);
    EXPECT_FALSE(same_bits(h, other)) << "the plain kernels ran both times, or the others did";
  }
}

}  // namespace
}  // namespace carousel
