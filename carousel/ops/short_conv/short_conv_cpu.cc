// SPDX-License-Identifier: Apache-2.0
// The short convolution. A gated input u = B * X has the same bits whether it is computed here or read back from the
// state, so neither cuts nor the division into row blocks change the result.
#include "carousel/ops/short_conv/short_conv.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

inline Vec load_at(const float* p, int64_t count) { return count >= kLanes ? load(p) : load_partial(p, count); }

/// u of columns j.. at time t of a sequence; times before this piece are in the state, before the sequence zero.
template <bool kRounds>
inline Vec gated_input(const ops::ShortConvArgs& args, const ops::ShortConvSequence& seq, int64_t t, int64_t j,
                       int64_t count) {
  if (t < 0) {
    return seq.u == nullptr ? Vec{} : load_at(seq.u + (t + args.kept) * args.width + j, count);
  }
  const int64_t n = seq.first_row + t;
  const Vec x = load_at(args.x.data + n * args.x.stride + j, count);
  if (args.b.data == nullptr) return x;
  const Vec u = load_at(args.b.data + n * args.b.stride + j, count) * x;
  return kRounds ? Rounding(args.dtype)(u) : u;
}

template <bool kRounds>
void convolve_row(const ops::ShortConvArgs& args, const ops::ShortConvSequence& seq, int64_t t) {
  const int64_t n = seq.first_row + t, width = args.width;
  float* out = args.out + n * width;  // [D]
  for (int64_t j = 0; j < width; j += kLanes) {
    const int64_t count = width - j;
    Vec acc = args.bias != nullptr ? load_at(args.bias + j, count) : Vec{};
    for (int64_t k = 0; k < args.taps_count; ++k) {
      const Vec u = gated_input<kRounds>(args, seq, t - (args.taps_count - 1) + k, j, count);
      acc = fma(load_at(args.taps + k * width + j, count), u, acc);
    }
    if (kRounds) acc = Rounding(args.dtype)(acc);
    if (args.silu) acc = acc * sigmoid(acc);
    if (kRounds && args.silu) acc = Rounding(args.gates)(acc);
    if (args.c.data != nullptr) acc = load_at(args.c.data + n * args.c.stride + j, count) * acc;
    if (kRounds) acc = Rounding(args.dtype)(acc);
    if (count >= kLanes) {
      store(out + j, acc);
    } else {
      store_partial(out + j, acc, count);
    }
  }
}

/// In place, oldest first: row i takes time T-kept+i, which an old row holds only further down.
template <bool kRounds>
void keep_last_inputs(const ops::ShortConvArgs& args, const ops::ShortConvSequence& seq) {
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
  const ops::ShortConvSequence& last = args.sequences[args.batch - 1];
  parallel_ranges(stream, last.first_row + last.rows, row_work, [&](int64_t begin, int64_t end) {
    int64_t s = 0;
    for (int64_t n = begin; n < end; ++n) {
      while (n >= args.sequences[s].first_row + args.sequences[s].rows) ++s;
      convolve_row<kRounds>(args, args.sequences[s], n - args.sequences[s].first_row);
    }
  });
  // Only now: rows of the region above read the old state.
  parallel_ranges(stream, args.batch, row_work, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      if (args.sequences[s].u != nullptr && args.sequences[s].rows > 0)
        keep_last_inputs<kRounds>(args, args.sequences[s]);
    }
  });
}

}  // namespace

void short_conv(const Stream& stream, const ops::ShortConvArgs& args) {
  const bool rounds = args.dtype != DType::kF32 || args.gates != DType::kF32;
  rounds ? convolve<true>(stream, args) : convolve<false>(stream, args);
}

}  // namespace carousel::cpu::CAROUSEL_ISA
