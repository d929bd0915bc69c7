// SPDX-License-Identifier: Apache-2.0
// The gradient of a short convolution of few taps in one pass over its rows, for one vector of columns. The last K
// inputs and the last K gradients of sums stay in registers: at time t the gradient of the sum is made, added to those
// of the taps, and completes the gradient of the input at time t - (K - 1).
#pragma once

#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/store_past.h"
#include "carousel/ops/short_conv/short_conv_inputs_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kRowsAhead = 8;
constexpr int64_t kSweepRows = 16;  // rows of one vector, before the strip's next vector: its pages are read together

/// The gradient of x from d, that of silu(x): (x s)' = s (1 + x (1 - s)) with s = sigmoid(x).
inline Vec before_silu(Vec x, Vec d) {
  const Vec s = sigmoid(x);
  return d * s * fma(x, set1(1.0f) - s, set1(1.0f));
}

inline void store_at(float* p, Vec value, int64_t count) {
  if (count >= kLanes) {
    store(p, value);
  } else {
    store_partial(p, value, count);
  }
}

/// One vector of columns from j on, of which `count` exist. kPast: gradients of inputs are stored past the caches.
template <int K, bool kGated, bool kPast>
struct Sweep {
  const ops::ShortConvBackwardArgs* args;
  View x, b, c, d, d_x, d_b, d_c;  // those of args: a store through a pointer could change args, but not these
  int64_t j, count;
  Vec taps[K], bias;
  Vec d_taps[K], d_bias;
  Vec u[K], d_sum[K];    // inputs and gradients of sums at times t - (K - 1) to t
  Vec x_of[K], b_of[K];  // what the inputs were made from, where they are gated
  Vec after[K];          // the gradients of the state's rows after the call

  Vec at(const View& of, int64_t n) const { return load_at(of.f32() + n * of.stride + j, count); }

  void begin(const ops::ShortConvBackwardArgs& given, int64_t first) {
    args = &given;
    x = given.forward.x, b = given.forward.b, c = given.forward.c;
    d = given.d, d_x = given.d_x, d_b = given.d_b, d_c = given.d_c;
    const ops::ShortConvArgs& conv = given.forward;
    j = first;
    count = conv.width - first;
    bias = conv.bias != nullptr ? load_at(conv.bias + j, count) : Vec{};
    d_bias = given.d_bias != nullptr ? load_at(given.d_bias + j, count) : Vec{};
    for (int k = 0; k < K; ++k) {
      taps[k] = load_at(conv.taps + k * conv.width + j, count);
      d_taps[k] = Vec{};
      if (given.d_taps == nullptr) continue;
      float lane[kLanes] = {};
      for (int64_t i = 0; i < kLanes && i < count; ++i) lane[i] = given.d_taps[(j + i) * K + k];
      d_taps[k] = load(lane);
    }
  }
  void end() const {
    if (args->d_bias != nullptr) store_at(args->d_bias + j, d_bias, count);
    for (int k = 0; k < K && args->d_taps != nullptr; ++k) {
      float lane[kLanes];
      store(lane, d_taps[k]);
      for (int64_t i = 0; i < kLanes && i < count; ++i) args->d_taps[(j + i) * K + k] = lane[i];
    }
  }
  void begin_sequence(const Sequence& seq, const float* d_state) {
    const ops::ShortConvArgs& conv = args->forward;
    for (int k = 0; k < K; ++k) {
      u[k] = k == 0 ? Vec{} : gated_input<false>(conv, seq, k - K, j, count);
      d_sum[k] = x_of[k] = b_of[k] = Vec{};
      after[k] = d_state != nullptr && k < conv.kept ? load_at(d_state + k * conv.width + j, count) : Vec{};
    }
  }
  /// The gradient of the input at time t, which is complete: that of X and B, or of the state before the call.
  CAROUSEL_INLINE void give_input(const Sequence& seq, float* d_state, int64_t t) const {
    const int64_t kept = t - (seq.rows - args->forward.kept);  // the state's row that keeps this input
    Vec d_u = taps[K - 1] * d_sum[0];
#pragma GCC unroll 4
    for (int k = K - 2; k >= 0; --k) d_u = fma(taps[k], d_sum[K - 1 - k], d_u);
    if (kept >= 0) {
      for (int k = 0; k < K; ++k) d_u = k == kept ? d_u + after[k] : d_u;
    }
    if (t < 0) {
      const ops::ShortConvArgs& conv = args->forward;
      if (d_state != nullptr) store_at(d_state + (t + conv.kept) * conv.width + j, d_u, count);
      return;
    }
    if (kGated) give(d_b, seq.first_row + t, d_u * x_of[0]);
    give(d_x, seq.first_row + t, kGated ? d_u * b_of[0] : d_u);
  }
  CAROUSEL_INLINE void give(const View& to, int64_t n, Vec value) const {
    if (to.data == nullptr) return;
    float* const p = to.f32() + n * to.stride + j;
    kPast ? store_past(p, value) : store_at(p, value, count);
  }
  CAROUSEL_INLINE void shift() {
#pragma GCC unroll 4
    for (int k = 0; k + 1 < K; ++k) {
      u[k] = u[k + 1];
      d_sum[k] = d_sum[k + 1];
      if (kGated) x_of[k] = x_of[k + 1], b_of[k] = b_of[k + 1];
    }
  }
  /// Prefetches a row that comes soon: rows lie too far apart for the hardware to foresee them.
  CAROUSEL_INLINE void prefetch_row(int64_t n) const {
    const auto fetch = [&](const View& of) __attribute__((always_inline)) {
      if (of.data != nullptr) prefetch_far(of.f32() + n * of.stride + j);
    };
    fetch(x), fetch(d);
    if (kGated) fetch(b), fetch(c);
    if (!kPast) fetch(d_x);
    if (!kPast && kGated) fetch(d_b), fetch(d_c);
  }
  CAROUSEL_INLINE void step(const Sequence& seq, float* d_state, int64_t t) {
    const int64_t n = seq.first_row + t;
    prefetch_row(n + kRowsAhead);
    shift();
    u[K - 1] = at(x, n);
    if (kGated) {
      x_of[K - 1] = u[K - 1], b_of[K - 1] = at(b, n);
      u[K - 1] = b_of[K - 1] * x_of[K - 1];
    }
    Vec d_n = at(d, n);
    const Vec sum = ops::taps_sum<VecMath>(
        bias, K, [&](int64_t k) CAROUSEL_INLINE_LAMBDA { return taps[k]; },
        [&](int64_t k) CAROUSEL_INLINE_LAMBDA { return u[k]; });
    if (kGated) {
      give(d_c, n, d_n * sum);
      d_n = at(c, n) * d_n;
    } else {
      d_n = before_silu(sum, d_n);
    }
    d_sum[K - 1] = d_n;
    d_bias = d_bias + d_n;
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) d_taps[k] = fma(u[k], d_n, d_taps[k]);
    give_input(seq, d_state, t - (K - 1));
  }
  void end_sequence(const Sequence& seq, float* d_state) {
    for (int64_t t = seq.rows - (K - 1); t < seq.rows; ++t) {
      shift();
      d_sum[K - 1] = Vec{};
      give_input(seq, d_state, t);
    }
    const ops::ShortConvArgs& conv = args->forward;
    for (int64_t i = 0; d_state != nullptr && i < conv.kept - (K - 1); ++i) {  // rows that no sum reads
      const int64_t from = i - seq.rows;
      store_at(d_state + i * conv.width + j, from >= 0 ? after[from] : Vec{}, count);
    }
  }
};

}  // namespace
}  // namespace carousel::cpu::CAROUSEL_ISA
