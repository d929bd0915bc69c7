// SPDX-License-Identifier: Apache-2.0
// The short convolution. A gated input u = B * X has the same bits whether it is computed here or read back from the
// state, so neither cuts nor the division into row blocks change the result.
#include "carousel/ops/short_conv/short_conv_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/prefetch.h"
#include "carousel/cpu/store_past.h"
#include "carousel/ops/short_conv/short_conv_inputs_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

template <bool kRounds>
void convolve_row(const ops::ShortConvArgs& args, const Sequence& seq, int64_t t) {
  const int64_t n = seq.first_row + t, width = args.width;
  float* out = args.out.f32() + n * width;  // [D]
  for (int64_t j = 0; j < width; j += kLanes) {
    const int64_t count = width - j;
    Vec acc = sum_at<kRounds>(args, seq, t, j, count);
    if (kRounds) acc = Rounding(args.dtype)(acc);
    if (args.silu) acc = ops::silu<VecMath>(acc);
    if (kRounds && args.silu) acc = Rounding(args.gates)(acc);
    if (args.c.f32() != nullptr) acc = load_at(args.c.f32() + n * args.c.stride + j, count) * acc;
    if (kRounds) acc = Rounding(args.dtype)(acc);
    if (count >= kLanes) {
      store(out + j, acc);
    } else {
      store_partial(out + j, acc, count);
    }
  }
}

constexpr int kMostTaps = 4;
constexpr int64_t kAheadFloats = 512;  // of the result, prefetched for writing
constexpr int64_t kStrip = 2048;       // columns that a pass over rows takes: their inputs stay in the first level

/// One row's columns from j on, of a convolution of K taps that rounds nothing. past[k] are the inputs of the K - 1
/// rows before, oldest first; the row's own are written to `next`.
template <int K, bool kGated, bool kPast>
CAROUSEL_INLINE void convolve_vector(const ops::ShortConvArgs& args, int64_t n, int64_t j, int64_t count,
                                     float* const (&past)[kMostTaps], float* next) {
  if (j % kLineFloats == 0) {
    prefetch_far(args.x.f32() + (n + 1) * args.x.stride + j);
    if (kGated) prefetch_far(args.b.f32() + (n + 1) * args.b.stride + j);
    if (kGated) prefetch_far(args.c.f32() + (n + 1) * args.c.stride + j);
  }
  Vec u = load_at(args.x.f32() + n * args.x.stride + j, count);
  if (kGated) u = load_at(args.b.f32() + n * args.b.stride + j, count) * u;
  const int64_t at = j % kStrip;
  store(next + at, u);
  Vec acc = ops::taps_sum<VecMath>(
      args.bias != nullptr ? load_at(args.bias + j, count) : Vec{}, K,
      [&](int64_t k) CAROUSEL_INLINE_LAMBDA { return load_at(args.taps + k * args.width + j, count); },
      [&](int64_t k) CAROUSEL_INLINE_LAMBDA { return k + 1 < K ? load(past[k] + at) : u; });
  if (args.silu) acc = ops::silu<VecMath>(acc);
  if (kGated) acc = load_at(args.c.f32() + n * args.c.stride + j, count) * acc;
  float* out = args.out.f32() + n * args.width + j;
  if (count >= kLanes) {
    if (!kPast && j % kLineFloats == 0) prefetch_write(out + kAheadFloats);
    kPast ? store_past(out, acc) : store(out, acc);
  } else {
    store_partial(out, acc, count);
  }
}

/// Rows [begin, end) of the batch, strip by strip. Each input is formed once and kept for the K - 1 rows that follow.
template <int K, bool kGated, bool kPast>
void convolve_rows(const ops::ShortConvArgs& given, int64_t begin, int64_t end) {
  const ops::ShortConvArgs args = given;  // a copy: behind the reference, every store would reload its fields
  alignas(64) float inputs[K][kStrip];
  for (int64_t first = 0; first < args.width; first += kStrip) {
    const int64_t last = args.width - first < kStrip ? args.width : first + kStrip;
    int64_t s = -1;
    for (int64_t n = begin; n < end; ++n) {
      const bool begins = s < 0 || n >= args.seqs.offsets[s + 1];
      while (s < 0 || n >= args.seqs.offsets[s + 1]) ++s;
      const Sequence seq = sequence(args, s);
      const int64_t t = n - seq.first_row;
      for (int64_t k = 1; begins && k < K; ++k) {  // row n - k's inputs lie where n % K would put them
        for (int64_t j = first; j < last; j += kLanes) {
          store(inputs[(n + K - k) % K] + (j - first), gated_input<false>(args, seq, t - k, j, args.width - j));
        }
      }
      float* past[kMostTaps] = {};
      for (int k = 0; k + 1 < K; ++k) past[k] = inputs[(n + 1 + k) % K];
      for (int64_t j = first; j < last; j += kLanes) {
        convolve_vector<K, kGated, kPast>(args, n, j, args.width - j, past, inputs[n % K]);
      }
    }
  }
  if (kPast) end_stores_past();
}

/// The function for a convolution of few taps; null if there is none.
using RowsFunction = void (*)(const ops::ShortConvArgs&, int64_t, int64_t);
template <bool kGated, bool kPast>
RowsFunction rows_function(int64_t taps_count) {
  switch (taps_count) {
    case 2:
      return convolve_rows<2, kGated, kPast>;
    case 3:
      return convolve_rows<3, kGated, kPast>;
    case 4:
      return convolve_rows<4, kGated, kPast>;
    default:
      return nullptr;
  }
}
RowsFunction rows_function(const ops::ShortConvArgs& args) {
  const bool gated = args.b.f32() != nullptr;
  if (gated != (args.c.f32() != nullptr)) return nullptr;
  const bool past = stores_past(args.out.f32(), args.width, args.seqs.rows(), args.width);
  if (gated) return past ? rows_function<true, true>(args.taps_count) : rows_function<true, false>(args.taps_count);
  return past ? rows_function<false, true>(args.taps_count) : rows_function<false, false>(args.taps_count);
}

/// Replaces the state in place, oldest first: row i becomes u at time T-kept+i, which is a new row or a later old one.
template <bool kRounds>
void keep_last_inputs(const ops::ShortConvArgs& args, const Sequence& seq) {
  for (int64_t i = 0; i < args.kept; ++i) {
    const int64_t t = seq.rows - args.kept + i;
    float* u = seq.u + i * args.width;  // [D]
    for (int64_t j = 0; j < args.width; j += kLanes) {
      const int64_t count = args.width - j;
      const Vec value = gated_input<kRounds>(args, seq, t, j, count);
      if (count >= kLanes) {
        store(u + j, value);
      } else {
        store_partial(u + j, value, count);
      }
    }
  }
}

template <bool kRounds>
void convolve(const Stream& stream, const ops::ShortConvArgs& args) {
  const int64_t row_work = args.width * 4 * args.taps_count;
  // A single row of a sequence reads the state where it lies.
  const bool single = args.seqs.rows() <= args.seqs.batch;
  const RowsFunction few_taps = kRounds || single ? nullptr : rows_function(args);
  parallel_ranges(stream, args.seqs.rows(), row_work, [&](int64_t begin, int64_t end) {
    if (few_taps != nullptr) return few_taps(args, begin, end);
    int64_t s = 0;
    for (int64_t n = begin; n < end; ++n) {
      while (n >= args.seqs.offsets[s + 1]) ++s;
      const Sequence seq = sequence(args, s);
      convolve_row<kRounds>(args, seq, n - seq.first_row);
    }
  });
  // Only after the region above, whose rows read the old state.
  parallel_ranges(stream, args.seqs.batch, row_work, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const Sequence seq = sequence(args, s);
      if (seq.u != nullptr && seq.rows > 0) keep_last_inputs<kRounds>(args, seq);
    }
  });
}

}  // namespace

void short_conv(const Stream& stream, const ops::ShortConvArgs& args) {
  const bool rounds = args.dtype != DType::kF32 || args.gates != DType::kF32;
  rounds ? convolve<true>(stream, args) : convolve<false>(stream, args);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
