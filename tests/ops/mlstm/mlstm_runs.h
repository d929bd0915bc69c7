// SPDX-License-Identifier: Apache-2.0
// Runs of ops::mlstm that keep states, cut as a test wants, and the reference of one head.
#pragma once

#include <vector>

#include "tests/ops/mlstm/mlstm_reference.h"

namespace carousel {

/// One forward over `states` [B] of pieces of these lengths; h on the host.
inline Tensor advance(Ctx& ctx, const MlstmTensors& in, const ops::MlstmDims& dims, const std::vector<State*>& states,
                      const std::vector<int64_t>& lengths) {
  Memory& memory = *ctx.stream.memory;
  const StateLayout layout = layout_of(dims);
  Seqs seqs = sequences(lengths);
  for (size_t s = 0; s < states.size(); ++s) seqs.pos[s] = states[s]->pos();
  seqs.bring_to(memory);
  StateBatch batch;
  batch.bind(layout, states, lengths, memory);
  const Tensor h = run(ctx, on(memory, in), dims, seqs, batch.layer(0)).clone().to_host();
  batch.advance(lengths);
  return h;
}

/// One sequence in pieces that end at `cuts`.
inline Tensor in_pieces(Ctx& ctx, const MlstmTensors& in, const ops::MlstmDims& dims, State* state,
                        const std::vector<int64_t>& cuts) {
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t cut : cuts) {
    parts.push_back(advance(ctx, in.rows(begin, cut), dims, {state}, {cut - begin}));
    begin = cut;
  }
  return joined(parts);
}

inline bool same_state(const State& a, const State& b, const ops::MlstmDims& dims) {
  const StateLayout layout = layout_of(dims);
  const NamedTensors x = a.tensors(layout), y = b.tensors(layout);
  bool same = true;
  for (size_t i = 0; i < x.size(); ++i) same = same && same_bits(x[i].tensor, y[i].tensor);
  return same;
}

/// The recurrence, one head: states start at zero.
struct Reference : MlstmState64 {
  std::vector<double> h;  // [T, Dv]
};

inline Reference reference(const MlstmTensors& in, const ops::MlstmDims& dims, int64_t first, int64_t rows,
                           int64_t head) {
  Reference r;
  static_cast<MlstmState64&>(r) = zero_state(dims);
  r.h = mlstm_rows(in_f64(in), dims, first, rows, head, &r);
  return r;
}

/// h rows of one head of [N, H*Dv].
inline std::vector<float> head_rows(const Tensor& h, const ops::MlstmDims& dims, int64_t first, int64_t rows,
                                    int64_t head) {
  std::vector<float> out;
  for (int64_t t = first; t < first + rows; ++t) {
    const float* row = h.f32() + (t * dims.heads + head) * dims.dv;
    out.insert(out.end(), row, row + dims.dv);
  }
  return out;
}

}  // namespace carousel
