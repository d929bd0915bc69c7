// SPDX-License-Identifier: Apache-2.0
// The inputs that a short convolution reads, of this call and of the state. The forward and the backward share them.
#pragma once

#include "carousel/cpu/rounding.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/ops/gate/activations.h"
#include "carousel/ops/short_conv/short_conv_cpu.h"
#include "carousel/ops/short_conv/short_conv_formulas.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

struct Sequence {
  int64_t first_row, rows;
  float* u;  // [kept, D] state, or null: zeros, nothing kept
};
inline Sequence sequence(const ops::ShortConvArgs& args, int64_t s) {
  return {args.seqs.first_row(s), args.seqs.length(s), args.state == nullptr ? nullptr : args.state[s]};
}

/// u of the columns from j on at time t of a sequence. Times before this call are in the state; before the sequence u
/// is zero.
template <bool kRounds>
inline Vec gated_input(const ops::ShortConvArgs& args, const Sequence& seq, int64_t t, int64_t j, int64_t count) {
  if (t < 0) {
    return seq.u == nullptr ? Vec{} : load_at(seq.u + (t + args.kept) * args.width + j, count);
  }
  const int64_t n = seq.first_row + t;
  const Vec x = load_at(args.x.f32() + n * args.x.stride + j, count);
  if (args.b.f32() == nullptr) return x;
  const Vec u = load_at(args.b.f32() + n * args.b.stride + j, count) * x;
  return kRounds ? Rounding(args.dtype)(u) : u;
}

/// The sum over the taps at time t, in the columns from j on.
template <bool kRounds>
inline Vec sum_at(const ops::ShortConvArgs& args, const Sequence& seq, int64_t t, int64_t j, int64_t count) {
  return ops::taps_sum<VecMath>(
      args.bias != nullptr ? load_at(args.bias + j, count) : Vec{}, args.taps_count,
      [&](int64_t k) { return load_at(args.taps + k * args.width + j, count); },
      [&](int64_t k) { return gated_input<kRounds>(args, seq, t - (args.taps_count - 1) + k, j, count); });
}

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
