// SPDX-License-Identifier: Apache-2.0
// The short convolution. A gated input u = B * X has the same bits whether it is computed here or read back from the
// state, so neither cuts nor the division into row blocks change the result.
#include "carousel/ops/short_conv/short_conv_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/ops/short_conv/short_conv_inputs_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

template <bool kRounds>
void convolve_row(const ops::ShortConvArgs& args, const Sequence& seq, int64_t t) {
  const int64_t n = seq.first_row + t, width = args.width;
  float* out = args.out.f32() + n * width;  // [D]
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
    if (args.c.f32() != nullptr) acc = load_at(args.c.f32() + n * args.c.stride + j, count) * acc;
    if (kRounds) acc = Rounding(args.dtype)(acc);
    if (count >= kLanes) {
      store(out + j, acc);
    } else {
      store_partial(out + j, acc, count);
    }
  }
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
  parallel_ranges(stream, args.seqs.rows(), row_work, [&](int64_t begin, int64_t end) {
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
