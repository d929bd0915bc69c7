// SPDX-License-Identifier: Apache-2.0
// Routing, and copying rows to and from an expert. A row is one item, whose result depends on no other row.
#include "carousel/ops/moe/moe_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/ops/moe/moe_choice.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerScore = 32;

void route_row(const ops::MoeRouteArgs& args, int64_t n) {
  const float* logits = args.logits.f32() + n * args.logits.stride;  // [E]
  float* s = args.scores.f32() + n * args.scores.stride;             // [E]
  int64_t e = 0;
  for (; e + kLanes <= args.count; e += kLanes) store(s + e, sigmoid(load(logits + e)));
  if (const int64_t rest = args.count - e; rest > 0)
    store_partial(s + e, sigmoid(load_partial(logits + e, rest)), rest);

  int32_t* chosen = args.experts + n * args.top_k;       // [k]
  float* weights = args.weights.f32() + n * args.top_k;  // [k]
  ops::choose_experts(s, args.bias, args.count, args.top_k, chosen);
  ops::weigh_experts(s, chosen, args.top_k, args.normalise, args.scale, weights);
}

}  // namespace

void moe_route(const Stream& stream, const ops::MoeRouteArgs& args) {
  parallel_ranges(stream, args.rows, args.count * (kWorkPerScore + args.top_k), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) route_row(args, n);
  });
}

void moe_gather(const Stream& stream, const ops::MoeRowsArgs& args) {
  parallel_ranges(stream, args.count, args.width, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(args.to.f32() + i * args.width, args.from.f32() + args.slots[i] / args.top_k * args.from.stride,
                  sizeof(float) * static_cast<size_t>(args.width));
    }
  });
}

void moe_scatter(const Stream& stream, const ops::MoeRowsArgs& args) {
  parallel_ranges(stream, args.count, args.width * 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Vec weight = set1(args.weights.data != nullptr ? args.weights.f32()[args.slots[i]] : 1.0f);
      const float* from = args.from.f32() + i * args.width;                     // [D]
      float* to = args.to.f32() + args.slots[i] / args.top_k * args.to.stride;  // [D]
      int64_t j = 0;
      for (; j + kLanes <= args.width; j += kLanes) store(to + j, fma(weight, load(from + j), load(to + j)));
      if (const int64_t rest = args.width - j; rest > 0) {
        store_partial(to + j, fma(weight, load_partial(from + j, rest), load_partial(to + j, rest)), rest);
      }
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
