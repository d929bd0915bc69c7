// SPDX-License-Identifier: Apache-2.0
// Routing, and copying rows to and from an expert. A row is one item, whose result depends on no other row.
#include "carousel/ops/moe/moe_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/vec.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerScore = 32;

/// The k indices of the largest s + bias, in descending order; equal values by index. NaN still gives k distinct
/// indices.
void choose(const float* s, const float* bias, int64_t count, int64_t k, int32_t* chosen) {
  const auto key = [&](int64_t e) { return bias == nullptr ? s[e] : s[e] + bias[e]; };
  for (int64_t e = 0; e < count; ++e) {
    int64_t place = e < k ? e : k;
    while (place > 0 && key(e) > key(chosen[place - 1])) {
      if (place < k) chosen[place] = chosen[place - 1];
      --place;
    }
    if (place < k) chosen[place] = static_cast<int32_t>(e);
  }
}

void sort_ascending(int32_t* values, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const int32_t value = values[i];
    int64_t place = i;
    for (; place > 0 && values[place - 1] > value; --place) values[place] = values[place - 1];
    values[place] = value;
  }
}

void route_row(const ops::MoeRouteArgs& args, int64_t n) {
  const float* logits = args.logits.f32() + n * args.logits.stride;  // [E]
  float* s = args.scores.f32() + n * args.scores.stride;             // [E]
  int64_t e = 0;
  for (; e + kLanes <= args.count; e += kLanes) store(s + e, sigmoid(load(logits + e)));
  if (const int64_t rest = args.count - e; rest > 0)
    store_partial(s + e, sigmoid(load_partial(logits + e, rest)), rest);

  int32_t* chosen = args.experts + n * args.top_k;       // [k]
  float* weights = args.weights.f32() + n * args.top_k;  // [k]
  choose(s, args.bias, args.count, args.top_k, chosen);
  sort_ascending(chosen, args.top_k);
  float sum = 0;
  for (int64_t i = 0; i < args.top_k; ++i) sum += s[chosen[i]];
  for (int64_t i = 0; i < args.top_k; ++i) {
    const float weight = args.normalise ? s[chosen[i]] / (sum + 1e-6f) : s[chosen[i]];
    weights[i] = weight * args.scale;
  }
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
