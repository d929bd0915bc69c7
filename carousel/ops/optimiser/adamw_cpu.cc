// SPDX-License-Identifier: Apache-2.0
// AdamW is bound by memory: four arrays are read and three written, a vector at a time.
#include "carousel/ops/optimiser/adamw_cpu.h"

#include "carousel/ops/optimiser/arrays_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

typedef double WideVec __attribute__((vector_size(sizeof(double) * static_cast<size_t>(kLanes))));

inline Vec square_root(Vec x) {
  float lanes[kLanes];
  store(lanes, x);
  for (float& lane : lanes) lane = std::sqrt(lane);
  return load(lanes);
}

struct Element {
  Vec w, m, v;
};

/// The step of a vector of elements.
CAROUSEL_INLINE Element stepped(const ops::AdamWArgs& args, Element e, Vec gradient) {
  const Vec g = gradient * set1(args.grad_scale);
  e.m = fma(set1(args.beta1), e.m, set1(1 - args.beta1) * g);
  e.v = fma(set1(args.beta2), e.v, set1(1 - args.beta2) * (g * g));
  const Vec size = fma(square_root(e.v), set1(args.v_scale), set1(args.eps));
  e.w = set1(args.keep) * e.w - set1(args.lr_m) * (e.m / size);
  return e;
}

double squares(const float* x, int64_t count) {
  WideVec total = {};
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i;
    const WideVec wide = __builtin_convertvector(lanes >= kLanes ? load(x + i) : load_partial(x + i, lanes), WideVec);
    total += wide * wide;
  }
  double sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += total[i];
  return sum;
}

}  // namespace

void adamw(const Stream& stream, const ops::AdamWArgs& args) {
  for_vectors(stream, args.count, [&]<bool kPartial>(int64_t i, int64_t lanes) CAROUSEL_INLINE_LAMBDA {
    const Element before = {load_lanes<kPartial>(args.w + i, lanes), load_lanes<kPartial>(args.m + i, lanes),
                            load_lanes<kPartial>(args.v + i, lanes)};
    const Element after = stepped(args, before, load_lanes<kPartial>(args.g + i, lanes));
    store_lanes<kPartial>(args.w + i, after.w, lanes);
    store_lanes<kPartial>(args.m + i, after.m, lanes);
    store_lanes<kPartial>(args.v + i, after.v, lanes);
  });
}

void sum_of_squares(const Stream& stream, const ops::SumOfSquaresArgs& args) {
  constexpr int64_t kBlock = ops::kNormBlock;
  parallel_ranges(stream, (args.count + kBlock - 1) / kBlock, kBlock * 2, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t rest = args.count - b * kBlock;
      args.blocks[b] = squares(args.x + b * kBlock, rest < kBlock ? rest : kBlock);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
