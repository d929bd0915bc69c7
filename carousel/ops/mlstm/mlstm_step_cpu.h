// SPDX-License-Identifier: Apache-2.0
// One row of the mLSTM cell: C' = f C + i k v^T and h = q C' (arXiv:2405.04517, sec. 2.3) in one pass over C, at
// the rate of memory. A task is a block of rows of C of one head.
//
// A task writes its rows of C and n and its own share of h, nothing else. It then adds 1 to blocks_done of the head
// (acquire and release); the task that makes it complete sees all shares, adds them in the order of the blocks, and
// writes the head's h. step_all writes the gates and m before the region.
#pragma once

#include "carousel/cpu/divide.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/ops/mlstm/mlstm_head_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

// C is read as one stream of addresses and prefetched this far ahead. Taking rows two or four at a time, which spares h
// some loads and stores, was no faster.
constexpr int64_t kAheadFloats = 2048;

/// Activates both gates of `count` heads of a row, and replaces m by the new one.
inline void step_gates(const float* i_pre, const float* f_pre, int64_t count, float cap, float* m, StepGates* steps) {
  for (int64_t h = 0; h < count; h += kLanes) {
    const int64_t lanes = count - h < kLanes ? count - h : kLanes;
    float i[kLanes], f[kLanes];
    store(i, load_at(i_pre + h, lanes));
    store(f, load_at(f_pre + h, lanes));
    activate_gates(i, f, kLanes, cap);
    const auto step = ops::mlstm_step<VecMath>(load(i), load(f), load_at(m + h, lanes));
    store(f, step.f_act);
    store(i, step.i_act);
    lanes == kLanes ? store(m + h, step.m) : store_partial(m + h, step.m, lanes);
    for (int64_t j = 0; j < lanes; ++j) steps[h + j] = {f[j], i[j], 0};
  }
}

/// Advances a row of C, C' = f C + (i k) v^T, and adds q C' to h while C' is in registers.
inline void step_row(float* c, float f_act, float i_k, float q, const float* v, float* h, int64_t width) {
  const Vec f_v = set1(f_act), i_k_v = set1(i_k), q_v = set1(q);
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    if (j % kLineFloats == 0) prefetch_near(c + j + kAheadFloats);
    const Vec updated = fma(i_k_v, load(v + j), f_v * load(c + j));
    store(c + j, updated);
    store(h + j, fma(q_v, updated, load(h + j)));
  }
  if (const int64_t rest = width - j; rest > 0) {
    const Vec updated = fma(i_k_v, load_partial(v + j, rest), f_v * load_partial(c + j, rest));
    store_partial(c + j, updated, rest);
    store_partial(h + j, fma(q_v, updated, load_partial(h + j, rest)), rest);
  }
}

/// Advances rows [first, end) of a head's C and n by one step. share [width] becomes the rows' share of q^T C'; returns
/// their share of q.n'.
float step_block(const Head& head, int64_t row, int64_t first, int64_t end, const StepGates& gates, float* share) {
  const Call& args = *head.args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv;
  const ops::MlstmScales scale = ops::mlstm_scales(args.dims);
  const float* q = args.q.f32() + row * args.q.stride + head.h * dk;                      // [Dk]
  const float* k = args.k.f32() + row * args.k.stride + head.h * dk;                      // [Dk]
  const float* v = args.v.f32() + row * args.v.stride + head.h * dv + head.first_column;  // [width]
  // The next block of the head, or the next head, begins behind this block.
  prefetch_near_floats(k + end, end - first);
  prefetch_near_floats(q + end, end - first);
  prefetch_near_floats(head.n + end, end - first);
  if (end == dk) prefetch_near_floats(v + dv, dv);
  const float f_act = gates.f, i_act = gates.i;
  float* n = head.n;  // [Dk]
  for (int64_t j = first; j < end; ++j) n[j] = fma1(i_act, scale.k * k[j], f_act * n[j]);
  std::memset(share, 0, sizeof(float) * static_cast<size_t>(head.width));
  for (int64_t d = first; d < end; ++d) {
    step_row(head.c + d * dv, f_act, i_act * (scale.k * k[d]), scale.q * q[d], v, share, head.width);
  }
  return scale.q * dot(q + first, n + first, end - first);
}

/// Keeps rows [first, end) of a head's C at `c`, from its first column on.
void keep_rows(const Head& head, float* c, int64_t first, int64_t end) {
  const int64_t dv = head.args->dims.dv;
  for (int64_t d = first; d < end; ++d) {
    std::memcpy(c + d * dv, head.c + d * dv, sizeof(float) * static_cast<size_t>(head.width));
  }
}

/// One step of a whole head, or of a block of its columns, within the walk of a longer sequence.
void step(Head* head, int64_t row) {
  const Call& args = *head->args;
  const int64_t dk = args.dims.dk, dv = args.dims.dv, block = step_rows(dv);
  StepGates gates;
  step_gates(args.i_pre.f32() + row * args.i_pre.stride + head->h, args.f_pre.f32() + row * args.f_pre.stride + head->h,
             1, args.dims.gate_soft_cap, &head->m, &gates);
  float* out = args.out.f32() + row * args.dims.heads * dv + head->h * dv + head->first_column;  // [width]
  float q_dot_n = 0.0f;
  for (int64_t first = 0; first < dk; first += block) {
    float* share = first == 0 ? out : head->scratch;
    q_dot_n += step_block(*head, row, first, first + block < dk ? first + block : dk, gates, share);
    for (int64_t j = 0; first > 0 && j < head->width; ++j) out[j] += share[j];
  }
  keep_row(*head, row, q_dot_n, head->m);
  const float norm = denominator(q_dot_n, head->m, args);
  for (int64_t j = 0; j < head->width; ++j) out[j] = out[j] / norm;
}

/// Adds the shares of a head's blocks, in their order, and divides by the denominator.
void finish_step(const Head& head, int64_t row, const float* shares, int64_t floats, int64_t blocks) {
  const Call& args = *head.args;
  float* out = args.out.f32() + row * args.dims.heads * args.dims.dv + head.h * args.dims.dv;  // [Dv]
  float q_dot_n = 0.0f;
  for (int64_t b = 0; b < blocks; ++b) q_dot_n += shares[(b + 1) * floats - 1];
  keep_row(head, row, q_dot_n, head.m);
  const float norm = denominator(q_dot_n, head.m, args);
  for (int64_t j = 0; j < head.width; j += kLanes) {  // shares have room for whole vectors
    Vec h = load(shares + j);
    for (int64_t b = 1; b < blocks; ++b) h = h + load(shares + b * floats + j);
    const int64_t lanes = head.width - j;
    lanes >= kLanes ? store(out + j, h / set1(norm)) : store_partial(out + j, h / set1(norm), lanes);
  }
}

/// The steps of all sequences of one row: `active` sequences.
void step_all(const Stream& stream, const Call& args, int64_t active) {
  const int64_t heads = args.dims.heads, dk = args.dims.dk, dv = args.dims.dv;
  const int64_t block = step_rows(dv), blocks = (dk - 1) / block + 1;
  const int64_t floats = share_floats(dv);
  for (int64_t s = 0; s < args.batch; ++s) {
    const Sequence& seq = args.sequences[s];
    if (seq.rows != 1) continue;
    if (args.kept.m_first != nullptr) {
      std::memcpy(args.kept.m_first + s * heads, seq.m, sizeof(float) * static_cast<size_t>(heads));
    }
    step_gates(args.i_pre.f32() + seq.first_row * args.i_pre.stride,
               args.f_pre.f32() + seq.first_row * args.f_pre.stride, heads, args.dims.gate_soft_cap, seq.m,
               args.steps + s * heads);
  }
  parallel_runs(stream, args.batch * heads * blocks, active * heads * dk * dv * 5, [&](int64_t item) {
    const int64_t s = item / (heads * blocks), h = item / blocks % heads, b = item % blocks;
    const Sequence& seq = args.sequences[s];
    if (seq.rows != 1) return;
    StepGates& gates = args.steps[s * heads + h];
    const Head head = {&args, h, 0, dv, seq.c + h * dk * dv, seq.n + h * dk, seq.m[h], nullptr};
    float* shares = args.shares + (s * heads + h) * blocks * floats;
    float* share = shares + b * floats;
    const int64_t end = (b + 1) * block < dk ? (b + 1) * block : dk;
    if (args.kept.c != nullptr) {
      const int64_t border = border_of(args, seq, h, 0);
      keep_rows(head, args.kept.c + border * dk * dv, b * block, end);
      std::memcpy(args.kept.n + border * dk + b * block, head.n + b * block,
                  sizeof(float) * static_cast<size_t>(end - b * block));
    }
    share[floats - 1] = step_block(head, seq.first_row, b * block, end, gates, share);
    if (__atomic_add_fetch(&gates.blocks_done, 1, __ATOMIC_ACQ_REL) < blocks) return;
    finish_step(head, seq.first_row, shares, floats, blocks);
  });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
