// SPDX-License-Identifier: Apache-2.0
// Elementwise gates: every lane computes the same expression, so the division of the work changes no bit.
#include "carousel/ops/gate.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 32;
constexpr int64_t kBlock = 1024;  // elements per item: a row of logits is worth many threads

inline Vec gated(Vec gate, Vec up) { return gate * sigmoid(gate) * up; }

}  // namespace

void swiglu(const Stream& stream, const ops::SwigluArgs& args) {
  parallel_ranges(stream, args.rows, args.width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* gate = args.gate_up + n * 2 * args.width;  // [F]
      const float* up = gate + args.width;                    // [F]
      float* out = args.out + n * args.width;                 // [F]
      int64_t j = 0;
      for (; j + kLanes <= args.width; j += kLanes) store(out + j, gated(load(gate + j), load(up + j)));
      if (const int64_t rest = args.width - j; rest > 0) {
        store_partial(out + j, gated(load_partial(gate + j, rest), load_partial(up + j, rest)), rest);
      }
    }
  });
}

void soft_cap(const Stream& stream, const ops::SoftCapArgs& args) {
  const Vec cap = set1(args.cap);
  const int64_t blocks = (args.count + kBlock - 1) / kBlock;
  parallel_ranges(stream, blocks, kBlock * kWorkPerElement, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kBlock < args.count ? end * kBlock : args.count;
    int64_t j = begin * kBlock;
    for (; j + kLanes <= last; j += kLanes) store(args.x + j, cap * tanh(load(args.x + j) / cap));
    if (const int64_t rest = last - j; rest > 0) {
      store_partial(args.x + j, cap * tanh(load_partial(args.x + j, rest) / cap), rest);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
