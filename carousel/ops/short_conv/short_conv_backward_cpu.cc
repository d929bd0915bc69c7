// SPDX-License-Identifier: Apache-2.0
// The gradient of the short convolution. With few taps one pass makes it all (short_conv_sweep_cpu.h). With more, the
// gradients of the sums of all rows are made first, which needs the sums again, then a convolution backwards in time.
// The gradient of a tap is one chain over all rows, so that batches may be cut between sequences.
#include "carousel/cpu/divide.h"
#include "carousel/cpu/workspace.h"
#include "carousel/ops/short_conv/short_conv_sweep_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

using Args = ops::ShortConvBackwardArgs;

Sequence sequence_before(const Args& args, int64_t s) {
  const SeqsView& seqs = args.forward.seqs;
  return {seqs.first_row(s), seqs.length(s),
          args.state.data == nullptr ? nullptr : args.state.f32() + s * args.state.stride};
}

/// Row n of d_sum, the gradient of the sum over taps, from that of the result; and the gradient of the gate C.
void sum_row(const Args& args, const Sequence& seq, int64_t t, float* d_sum) {
  const ops::ShortConvArgs& conv = args.forward;
  const int64_t n = seq.first_row + t;
  const bool needs_sum = conv.silu || args.d_c.data != nullptr;
  for (int64_t j = 0; j < conv.width; j += kLanes) {
    const int64_t count = conv.width - j;
    Vec d = load_at(args.d.f32() + n * args.d.stride + j, count);
    const Vec sum = needs_sum ? sum_at<false>(conv, seq, t, j, count) : Vec{};
    if (conv.silu) d = before_silu(sum, d);
    if (conv.c.data != nullptr) {
      if (args.d_c.data != nullptr) store_at(args.d_c.f32() + n * args.d_c.stride + j, d * sum, count);
      d = load_at(conv.c.f32() + n * conv.c.stride + j, count) * d;
    }
    store_at(d_sum + n * conv.width + j, d, count);
  }
}

/// The gradient that the sums of this call give to the input at time t, which may lie before the call.
inline Vec from_sums(const ops::ShortConvArgs& conv, const Sequence& seq, const float* d_sum, int64_t t, int64_t j,
                     int64_t count) {
  Vec d{};
  for (int64_t k = conv.taps_count - 1; k >= 0; --k) {
    const int64_t reader = t + conv.taps_count - 1 - k;
    if (reader < 0 || reader >= seq.rows) continue;
    d = fma(load_at(conv.taps + k * conv.width + j, count),
            load_at(d_sum + (seq.first_row + reader) * conv.width + j, count), d);
  }
  return d;
}

/// The gradients of X and B in one row. d_state is that of the state after the call, or null.
void input_row(const Args& args, const Sequence& seq, const float* d_state, int64_t t, const float* d_sum) {
  const ops::ShortConvArgs& conv = args.forward;
  const int64_t n = seq.first_row + t, kept = t - (seq.rows - conv.kept);  // the state's row that keeps this input
  for (int64_t j = 0; j < conv.width; j += kLanes) {
    const int64_t count = conv.width - j;
    Vec d_u = from_sums(conv, seq, d_sum, t, j, count);
    if (d_state != nullptr && kept >= 0) d_u = d_u + load_at(d_state + kept * conv.width + j, count);
    const auto input = [&](const View& of) { return load_at(of.f32() + n * of.stride + j, count); };
    if (args.d_b.data != nullptr) store_at(args.d_b.f32() + n * args.d_b.stride + j, d_u * input(conv.x), count);
    if (args.d_x.data == nullptr) continue;
    const Vec d_x = conv.b.data != nullptr ? d_u * input(conv.b) : d_u;
    store_at(args.d_x.f32() + n * args.d_x.stride + j, d_x, count);
  }
}

/// Replaces the gradient of the state after the call by that of the state before it. Row i reads a row before it.
void state_rows(const ops::ShortConvArgs& conv, const Sequence& seq, float* d_state, const float* d_sum) {
  for (int64_t i = conv.kept - 1; i >= 0; --i) {
    for (int64_t j = 0; j < conv.width; j += kLanes) {
      const int64_t count = conv.width - j;
      Vec d = from_sums(conv, seq, d_sum, i - conv.kept, j, count);
      if (i >= seq.rows) d = d + load_at(d_state + (i - seq.rows) * conv.width + j, count);
      store_at(d_state + i * conv.width + j, d, count);
    }
  }
}

constexpr int64_t kStripVecs = 2;
constexpr int64_t kStrip = kStripVecs * kLanes;

/// Adds the gradients of taps k to k + K of columns j to j + kStrip.
template <int K>
void add_taps(const Args& args, const float* d_sum, int64_t k, int64_t j) {
  const ops::ShortConvArgs& conv = args.forward;
  const int64_t lanes = conv.width - j < kStrip ? conv.width - j : kStrip;
  alignas(64) float sums[K][kStrip] = {};
  for (int64_t i = 0; i < lanes * K; ++i) sums[i % K][i / K] = args.d_taps[(j + i / K) * conv.taps_count + k + i % K];
  Vec acc[K][kStripVecs];
  for (int i = 0; i < K; ++i) {
    for (int64_t v = 0; v < kStripVecs; ++v) acc[i][v] = load(sums[i] + v * kLanes);
  }
  for (int64_t s = 0; s < conv.seqs.batch; ++s) {
    const Sequence seq = sequence_before(args, s);
    for (int64_t t = 0; t < seq.rows; ++t) {
      const float* const d_n = d_sum + (seq.first_row + t) * conv.width + j;
      for (int64_t v = 0; v < kStripVecs && v * kLanes < lanes; ++v) {
        const int64_t count = lanes - v * kLanes;
        const Vec d = load_at(d_n + v * kLanes, count);
        for (int i = 0; i < K; ++i) {
          const int64_t at = t - (conv.taps_count - 1) + k + i;
          acc[i][v] = fma(gated_input<false>(conv, seq, at, j + v * kLanes, count), d, acc[i][v]);
        }
      }
    }
  }
  for (int i = 0; i < K; ++i) {
    for (int64_t v = 0; v < kStripVecs; ++v) store(sums[i] + v * kLanes, acc[i][v]);
  }
  for (int64_t i = 0; i < lanes * K; ++i) args.d_taps[(j + i / K) * conv.taps_count + k + i % K] = sums[i % K][i / K];
}

void add_bias(const Args& args, const float* d_sum, int64_t j) {
  const int64_t width = args.forward.width, rows = args.forward.seqs.rows();
  for (int64_t v = j; v < j + kStrip && v < width; v += kLanes) {
    Vec sum = load_at(args.d_bias + v, width - v);
    for (int64_t n = 0; n < rows; ++n) sum = sum + load_at(d_sum + n * width + v, width - v);
    store_at(args.d_bias + v, sum, width - v);
  }
}

void add_parameters(const Stream& stream, const Args& args, const float* d_sum) {
  const int64_t width = args.forward.width, taps = args.forward.taps_count;
  const int64_t work = args.forward.seqs.rows() * kStrip * 4 * taps;
  parallel_ranges(stream, (width + kStrip - 1) / kStrip, work, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin * kStrip; j < end * kStrip; j += kStrip) {
      int64_t k = 0;
      for (; args.d_taps != nullptr && k + 4 <= taps; k += 4) add_taps<4>(args, d_sum, k, j);
      for (; args.d_taps != nullptr && k < taps; ++k) add_taps<1>(args, d_sum, k, j);
      if (args.d_bias != nullptr) add_bias(args, d_sum, j);
    }
  });
}

constexpr int64_t kMostSwept = 4;  // taps of one pass
constexpr int64_t kSweepVecs = 8;  // vectors of a strip

/// Makes all gradients of kSweepVecs vectors of columns from j on.
template <int K, bool kGated, bool kPast>
void sweep_strip(const Args& args, int64_t j) {
  const ops::ShortConvArgs& conv = args.forward;
  Sweep<K, kGated, kPast> sweeps[kSweepVecs];
  int64_t vecs = 0;
  for (; vecs < kSweepVecs && j + vecs * kLanes < conv.width; ++vecs) sweeps[vecs].begin(args, j + vecs * kLanes);
  for (int64_t s = 0; s < conv.seqs.batch; ++s) {
    const Sequence seq = sequence_before(args, s);
    if (seq.rows == 0) continue;
    float* const d_state = args.d_state != nullptr ? args.d_state[s] : nullptr;
    for (int64_t v = 0; v < vecs; ++v) sweeps[v].begin_sequence(seq, d_state);
    for (int64_t t = 0; t < seq.rows; t += kSweepRows) {
      const int64_t past = t + kSweepRows < seq.rows ? t + kSweepRows : seq.rows;
      for (int64_t v = 0; v < vecs; ++v) {
        Sweep<K, kGated, kPast> sweep = sweeps[v];
        for (int64_t i = t; i < past; ++i) sweep.step(seq, d_state, i);
        sweeps[v] = sweep;
      }
    }
    for (int64_t v = 0; v < vecs; ++v) sweeps[v].end_sequence(seq, d_state);
  }
  for (int64_t v = 0; v < vecs; ++v) sweeps[v].end();
  if (kPast) end_stores_past();
}

using Strip = void (*)(const Args&, int64_t);
template <bool kGated, bool kPast>
Strip strip_of(int64_t taps) {
  constexpr Strip kStrips[kMostSwept] = {sweep_strip<1, kGated, kPast>, sweep_strip<2, kGated, kPast>,
                                         sweep_strip<3, kGated, kPast>, sweep_strip<4, kGated, kPast>};
  return kStrips[taps - 1];
}
Strip strip_of(const Args& args) {
  const ops::ShortConvArgs& conv = args.forward;
  // Where a vector is a line of the cache, and all of them are whole.
  bool past = sizeof(Vec) == 64 && conv.width % kLanes == 0;
  for (const View* const to : {&args.d_x, &args.d_b, &args.d_c}) {
    if (to->data != nullptr) past = past && stores_past(to->f32(), to->stride, conv.seqs.rows(), conv.width);
  }
  if (conv.silu) return past ? strip_of<false, true>(conv.taps_count) : strip_of<false, false>(conv.taps_count);
  return past ? strip_of<true, true>(conv.taps_count) : strip_of<true, false>(conv.taps_count);
}

void sweep(const Stream& stream, const Args& args) {
  constexpr int64_t kColumns = kSweepVecs * kLanes;
  const ops::ShortConvArgs& conv = args.forward;
  const int64_t work = conv.seqs.rows() * kColumns * (40 + 6 * conv.taps_count);
  parallel_ranges(stream, (conv.width + kColumns - 1) / kColumns, work, [&](int64_t begin, int64_t end) {
    const Strip strip = strip_of(args);
    for (int64_t i = begin; i < end; ++i) strip(args, i * kColumns);
  });
}

}  // namespace

int64_t short_conv_backward_workspace(const Stream& /*stream*/, const ops::ShortConvBackwardArgs& args) {
  Workspace counted;
  if (args.forward.taps_count > kMostSwept) counted.take<float>(args.forward.seqs.rows() * args.forward.width);
  return counted.bytes();
}

void short_conv_backward(const Stream& stream, const ops::ShortConvBackwardArgs& args) {
  const ops::ShortConvArgs& conv = args.forward;
  if (conv.taps_count <= kMostSwept) return sweep(stream, args);
  Workspace workspace(args.workspace);
  float* const d_sum = workspace.take<float>(conv.seqs.rows() * conv.width);  // [N, D]
  const int64_t row_work = conv.width * 4 * conv.taps_count;
  const auto each_row = [&](auto&& f) {
    parallel_ranges(stream, conv.seqs.rows(), row_work, [&](int64_t begin, int64_t end) {
      int64_t s = 0;
      for (int64_t n = begin; n < end; ++n) {
        while (n >= conv.seqs.offsets[s + 1]) ++s;
        f(s, sequence_before(args, s), n - conv.seqs.first_row(s));
      }
    });
  };
  each_row([&](int64_t, const Sequence& seq, int64_t t) { sum_row(args, seq, t, d_sum); });
  if (args.d_x.data != nullptr || args.d_b.data != nullptr) {
    each_row([&](int64_t s, const Sequence& seq, int64_t t) {
      input_row(args, seq, args.d_state != nullptr ? args.d_state[s] : nullptr, t, d_sum);
    });
  }
  if (args.d_taps != nullptr || args.d_bias != nullptr) add_parameters(stream, args, d_sum);
  if (args.d_state == nullptr) return;
  parallel_ranges(stream, conv.seqs.batch, row_work, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      const Sequence seq = sequence_before(args, s);
      if (seq.rows > 0) state_rows(conv, seq, args.d_state[s], d_sum);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
