// SPDX-License-Identifier: Apache-2.0
// AdamW is bound by memory: four arrays are read and three written, a vector at a time.
#include "carousel/ops/optimiser/adamw_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

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
  constexpr int64_t kItem = 4096;
  parallel_ranges(stream, (args.count + kItem - 1) / kItem, kItem * 16, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kItem < args.count ? end * kItem : args.count;
    int64_t i = begin * kItem;
    for (; i + kLanes <= last; i += kLanes) {
      const Element e = stepped(args, {load(args.w + i), load(args.m + i), load(args.v + i)}, load(args.g + i));
      store(args.w + i, e.w);
      store(args.m + i, e.m);
      store(args.v + i, e.v);
    }
    if (const int64_t lanes = last - i; lanes > 0) {
      const Element e = stepped(
          args, {load_partial(args.w + i, lanes), load_partial(args.m + i, lanes), load_partial(args.v + i, lanes)},
          load_partial(args.g + i, lanes));
      store_partial(args.w + i, e.w, lanes);
      store_partial(args.m + i, e.m, lanes);
      store_partial(args.v + i, e.v, lanes);
    }
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
