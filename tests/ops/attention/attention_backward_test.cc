// SPDX-License-Identifier: Apache-2.0
// Gradients of attention against central differences in f64, through states, and their bits.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/isas.h"
#include "tests/ops/attention/attention_reference.h"
#include "tests/ops/gradients.h"

namespace carousel {
namespace {

using ops::AttentionDims;

std::vector<double> values_of(const Tensor& tensor) {
  return tensor.defined() ? to_f64(tensor) : std::vector<double>();
}

int64_t width_of(const AttentionDims& dims) { return (dims.heads + 2 * dims.kv_heads) * dims.head_dim; }

Tensor random_qkv(int64_t rows, const AttentionDims& dims) { return random_tensor({rows, width_of(dims)}, 11); }
Tensor random_d(int64_t rows, const AttentionDims& dims) {
  return random_tensor({rows, dims.heads * dims.head_dim}, 12);
}

struct Gradients {
  Tensor qkv;
  std::vector<float> q_norm, k_norm;
};

void expect_same(const Gradients& a, const Gradients& b) {
  EXPECT_TRUE(same_bits(a.qkv, b.qkv));
  EXPECT_EQ(a.q_norm, b.q_norm);
  EXPECT_EQ(a.k_norm, b.k_norm);
}

/// Attention without states over batches of sequences, one after the other; gradients of norms are accumulated.
Gradients run(Isa isa, int threads, const AttentionDims& dims, const Tensor& qkv, const Tensor& d,
              const std::vector<std::vector<int64_t>>& batches) {
  Taped t(isa, threads);
  std::shared_ptr<std::vector<float>> q_norm, k_norm;
  if (dims.q_norm.defined()) {
    q_norm = t.parameter(dims.q_norm);
    k_norm = t.parameter(dims.k_norm);
  }
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const std::vector<int64_t>& lengths : batches) {
    const Seqs seqs = sequences(lengths);
    const int64_t end = begin + seqs.rows();
    const Tensor x = t.input(qkv.rows(begin, end)), out = ops::attention(t.ctx, x, dims, seqs, {});
    Machine plain(isa, threads);
    EXPECT_TRUE(same_bits(out, ops::attention(plain.ctx, qkv.rows(begin, end), dims, seqs, {})));
    t.backward({{out, d.rows(begin, end)}});
    parts.push_back(t.gradient(x).clone());
    begin = end;
  }
  return {joined(parts), q_norm ? *q_norm : std::vector<float>(), k_norm ? *k_norm : std::vector<float>()};
}

std::vector<AttentionDims> shapes() {
  return {attention_dims(4, 2, 16),
          attention_dims(1, 1, 2, false),
          attention_dims(6, 1, 24),
          attention_dims(3, 3, 7, true, false),
          attention_dims(2, 2, 40, false, false),
          partly_rotated(attention_dims(4, 1, 32), 4),
          partly_rotated(attention_dims(2, 2, 10, false), 1),
          windowed(attention_dims(2, 2, 8), 1),
          windowed(attention_dims(4, 2, 16), 7),
          windowed(attention_dims(6, 2, 12, false), 64),
          windowed(partly_rotated(attention_dims(2, 2, 16), 4), 65),
          windowed(attention_dims(2, 1, 16), 100)};
}

// A weight is the exponential of a score less the logarithm of a sum, both near 5 in f32: 5 * 2^-24 of the weight is
// lost, a few times 3e-7 of the gradients. Seen: 9.2e-7 at most.
constexpr double kTolerance = 1e-6;

// Lengths on both sides of blocks of query rows and of pages.
TEST(AttentionBackward, AgreesWithCentralDifferences) {
  const std::vector<int64_t> lengths = {1, 17, 0, 64, 131};
  const Seqs seqs = sequences(lengths);
  for (const Isa isa : tested_isas()) {
    for (const AttentionDims& dims : shapes()) {
      const Tensor qkv = random_qkv(seqs.rows(), dims), d = random_d(seqs.rows(), dims);
      const Gradients got = run(isa, 3, dims, qkv, d, {lengths});
      std::vector<double> q_norm = values_of(dims.q_norm), k_norm = values_of(dims.k_norm);
      const auto loss_of = [&](size_t s, const std::vector<double>& values) {
        return weighted_sum(d.rows(seqs.offsets[s], seqs.offsets[s + 1]),
                            attention_reference({values, q_norm, k_norm}, dims));
      };
      for (size_t s = 0; s < lengths.size(); ++s) {
        std::vector<double> at = values_of(qkv.rows(seqs.offsets[s], seqs.offsets[s + 1]));
        if (at.empty()) continue;
        const auto loss = [&] { return loss_of(s, at); };
        EXPECT_LT(gradient_error(loss, at, got.qkv.f32() + seqs.offsets[s] * width_of(dims), 40), kTolerance)
            << cpu::isa_name(isa) << " T " << lengths[s] << " d " << dims.head_dim << " window " << dims.window;
      }
      if (q_norm.empty()) continue;
      if (dims.window == 1) {  // a row that sees itself alone has no gradient of its score: what is left is rounding
        for (const float value : got.q_norm) EXPECT_LT(std::abs(value), 1e-4f);
        continue;
      }
      const auto loss = [&] {
        double sum = 0;
        for (size_t s = 0; s < lengths.size(); ++s) {
          sum += loss_of(s, values_of(qkv.rows(seqs.offsets[s], seqs.offsets[s + 1])));
        }
        return sum;
      };
      EXPECT_LT(gradient_error(loss, q_norm, got.q_norm.data(), 20), kTolerance) << dims.head_dim;
      EXPECT_LT(gradient_error(loss, k_norm, got.k_norm.data(), 20), kTolerance) << dims.head_dim;
    }
  }
}

TEST(AttentionBackward, ThreadsNeighboursAndMicroBatchesChangeNoBit) {
  const std::vector<int64_t> lengths = {70, 1, 0, 200, 33};
  const int64_t rows = sequences(lengths).rows();
  for (const Isa isa : tested_isas()) {
    for (const AttentionDims& dims : {attention_dims(4, 2, 16), windowed(attention_dims(6, 3, 24), 50)}) {
      const Tensor qkv = random_qkv(rows, dims), d = random_d(rows, dims);
      const Gradients whole = run(isa, 1, dims, qkv, d, {lengths});
      expect_same(run(isa, 2, dims, qkv, d, {lengths}), whole);
      expect_same(run(isa, 3, dims, qkv, d, {lengths}), whole);
      expect_same(run(isa, 3, dims, qkv, d, {{70, 1}, {0, 200}, {33}}), whole);
      const Tensor only = d.clone();  // the loss of sequence 3 alone
      for (int64_t i = 0; i < only.count(); ++i) {
        if (i / only.dim(1) < 71 || i / only.dim(1) >= 271) only.f32()[i] = 0;
      }
      const Gradients packed = run(isa, 3, dims, qkv, only, {lengths});
      const Gradients alone = run(isa, 2, dims, qkv.rows(71, 271), d.rows(71, 271), {{200}});
      EXPECT_TRUE(same_bits(packed.qkv.rows(71, 271), alone.qkv));
      EXPECT_EQ(packed.q_norm, alone.q_norm);
      EXPECT_EQ(packed.k_norm, alone.k_norm);
    }
  }
}

/// Two sequences, [0] of lengths[0] rows and [1] of lengths[1], that are cut at cuts[s]: the second parts go on from
/// the states of the first ones, and their gradients go back through the gradients of these states.
Gradients run_cut(Isa isa, const AttentionDims& dims, const std::vector<Tensor>& qkv, const std::vector<Tensor>& d,
                  const std::vector<int64_t>& cuts) {
  const StateLayout layout = attention_layout(dims);
  Taped parts[2] = {Taped(isa, 3), Taped(isa, 2)};
  std::vector<State> states(2), d_states(2);
  Tensor inputs[2], outputs[2], d_outputs[2], d_inputs[2];
  std::vector<int64_t> lengths[2];
  std::vector<std::shared_ptr<std::vector<float>>> q_norm, k_norm;
  for (size_t part = 0; part < 2; ++part) {
    std::vector<Tensor> rows, d_rows;
    for (size_t s = 0; s < 2; ++s) {
      const int64_t begin = part == 0 ? 0 : cuts[s], end = part == 0 ? cuts[s] : qkv[s].dim(0);
      rows.push_back(qkv[s].rows(begin, end));
      d_rows.push_back(d[s].rows(begin, end));
      lengths[part].push_back(end - begin);
    }
    Seqs seqs = sequences(lengths[part]);
    seqs.pos = {states[0].pos(), states[1].pos()};
    StateBatch batch;
    const std::vector<State*> bound = {&states[0], &states[1]};
    batch.bind(layout, bound, lengths[part]);
    Taped& t = parts[part];
    if (dims.q_norm.defined()) {
      q_norm.push_back(t.parameter(dims.q_norm));
      k_norm.push_back(t.parameter(dims.k_norm));
    }
    inputs[part] = t.input(joined(rows));
    outputs[part] = ops::attention(t.ctx, inputs[part], dims, seqs, batch.layer(0));
    d_outputs[part] = joined(d_rows);
    batch.advance(lengths[part]);
  }
  for (size_t s = 0; s < 2; ++s) {  // zeros of the states' shapes
    NamedTensors zeros = states[s].tensors(layout);
    for (NamedTensor& named : zeros) named.tensor = Tensor(named.tensor.shape(), DType::kF32);
    d_states[s] = State::from(zeros, states[s].pos(), layout);
  }
  states = {};  // the tapes keep what they need
  StateBatch d_batch;
  const std::vector<State*> bound = {&d_states[0], &d_states[1]};
  const std::vector<int64_t> none = {0, 0};
  d_batch.bind(layout, bound, none);
  for (const size_t part : {1, 0}) {
    parts[part].backward({{outputs[part], d_outputs[part]}}, &d_batch);
    d_inputs[part] = parts[part].gradient(inputs[part]);
  }
  std::vector<Tensor> rows;
  for (size_t s = 0; s < 2; ++s) {
    for (size_t part = 0; part < 2; ++part) {
      const int64_t begin = s == 0 ? 0 : lengths[part][0];
      rows.push_back(d_inputs[part].rows(begin, begin + lengths[part][s]));
    }
  }
  Gradients out = {joined(rows), {}, {}};
  for (size_t part = 0; part < q_norm.size(); ++part) {
    out.q_norm.resize(q_norm[part]->size());
    out.k_norm.resize(q_norm[part]->size());
    for (size_t j = 0; j < out.q_norm.size(); ++j) {
      out.q_norm[j] += (*q_norm[part])[j];
      out.k_norm[j] += (*k_norm[part])[j];
    }
  }
  return out;
}

std::vector<double> to_f64(const std::vector<float>& values) { return {values.begin(), values.end()}; }

TEST(AttentionBackward, ACutSequenceHasTheGradientsOfTheUncutOne) {
  for (const Isa isa : tested_isas()) {
    for (const AttentionDims& dims : shapes()) {
      const std::vector<Tensor> qkv = {random_qkv(150, dims), random_tensor({90, width_of(dims)}, 13)};
      const std::vector<Tensor> d = {random_d(150, dims), random_tensor({90, dims.heads * dims.head_dim}, 14)};
      const Gradients whole = run(isa, 2, dims, joined(qkv), joined(d), {{150, 90}});
      for (const std::vector<int64_t>& cuts : {std::vector<int64_t>{70, 64}, {128, 1}, {149, 90}}) {
        const Gradients cut = run_cut(isa, dims, qkv, d, cuts);
        EXPECT_LT(relative_error(cut.qkv.f32(), carousel::to_f64(whole.qkv)), 1e-5) << dims.window;
        EXPECT_LT(relative_error(cut.q_norm.data(), to_f64(whole.q_norm)), 1e-5) << dims.window;
        EXPECT_LT(relative_error(cut.k_norm.data(), to_f64(whole.k_norm)), 1e-5) << dims.window;
      }
    }
  }
}

TEST(AttentionBackward, OnlyTheNormsMayBeTrained) {
  const AttentionDims dims = attention_dims(4, 2, 16);
  const Tensor qkv = random_qkv(90, dims), d = random_d(90, dims);
  const Gradients whole = run(cpu::best_isa(), 2, dims, qkv, d, {{90}});
  Taped t;
  const auto k_norm = t.parameter(dims.k_norm);
  t.backward({{ops::attention(t.ctx, qkv, dims, sequences({90}), {}), d}});
  EXPECT_EQ(*k_norm, whole.k_norm);
}

// Keys of several spans of the forward.
TEST(AttentionBackward, LongSequencesAgreeWithCentralDifferences) {
  const int64_t rows = ops::kAttentionSpan + 70;
  const AttentionDims dims = attention_dims(2, 1, 4);
  const Tensor qkv = random_qkv(rows, dims), d = random_d(rows, dims);
  const Gradients got = run(cpu::best_isa(), 3, dims, qkv, d, {{rows}});
  AttentionValues values = {values_of(qkv), values_of(dims.q_norm), values_of(dims.k_norm)};
  const auto loss = [&] { return weighted_sum(d, attention_reference(values, dims)); };
  EXPECT_LT(gradient_error(loss, values.qkv, got.qkv.f32(), 12), kTolerance);
}

}  // namespace
}  // namespace carousel
