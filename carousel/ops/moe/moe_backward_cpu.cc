// SPDX-License-Identifier: Apache-2.0
// Gradients of the router's weights: of its logits, and where the weights meet the experts' rows.
#include "carousel/ops/moe/moe_backward_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/matmul.h"
#include "carousel/cpu/vec_math.h"
#include "carousel/ops/moe/moe_choice.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerChoice = 32;

/// Calls f(i, s, lanes) for the scores s of the chosen experts i to i + lanes.
template <class F>
CAROUSEL_INLINE void for_scores(const float* logits, const int32_t* chosen, int64_t count, F&& f) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = count - i < kLanes ? count - i : kLanes;
    float lane[kLanes] = {};
    for (int64_t j = 0; j < lanes; ++j) lane[j] = logits[chosen[i + j]];
    store(lane, sigmoid(load(lane)));
    f(i, static_cast<const float*>(lane), lanes);
  }
}

/// weight_i = scale s_i / (sum + 1e-6), or scale s_i.
void route_row(const ops::MoeRouteBackwardArgs& args, int64_t n) {
  const float* const logits = args.logits.f32() + n * args.logits.stride;  // [E]
  const int32_t* const chosen = args.experts + n * args.top_k;             // [k]
  const float* const d = args.d.f32() + n * args.d.stride;                 // [k]
  float* const d_logits = args.d_logits.f32() + n * args.d_logits.stride;  // [E]
  std::memset(d_logits, 0, sizeof(float) * static_cast<size_t>(args.count));
  float total = ops::kMoeSumFloor, along = 0;
  for_scores(logits, chosen, args.top_k, [&](int64_t i, const float* s, int64_t lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      total += s[j];
      along = fma1(d[i + j], s[j], along);
    }
  });
  const float factor = args.normalise ? args.scale / total : args.scale, mean = args.normalise ? along / total : 0.0f;
  for_scores(logits, chosen, args.top_k, [&](int64_t i, const float* s, int64_t lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      d_logits[chosen[i + j]] = factor * (d[i + j] - mean) * s[j] * (1.0f - s[j]);
    }
  });
}

float dot(const float* a, const float* b, int64_t count) {
  Vec acc[4] = {};
  int64_t j = 0;
  for (; j + 4 * kLanes <= count; j += 4 * kLanes) {
    for (int64_t i = 0; i < 4; ++i) acc[i] = fma(load(a + j + i * kLanes), load(b + j + i * kLanes), acc[i]);
  }
  for (; j + kLanes <= count; j += kLanes) acc[0] = fma(load(a + j), load(b + j), acc[0]);
  if (j < count) acc[0] = fma(load_partial(a + j, count - j), load_partial(b + j, count - j), acc[0]);
  return sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

void multiply(float* x, int64_t count, float by) {
  for_column_tiles<1>(count, [&]<int V, bool kPartial>(int64_t j, int64_t lanes) {
    store_lanes<kPartial>(x + j, load_lanes<kPartial>(x + j, lanes) * set1(by), lanes);
  });
}

}  // namespace

void moe_route_backward(const Stream& stream, const ops::MoeRouteBackwardArgs& args) {
  parallel_ranges(stream, args.rows, args.count + args.top_k * kWorkPerChoice, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) route_row(args, n);
  });
}

void moe_weigh(const Stream& stream, const ops::MoeWeighArgs& args) {
  parallel_ranges(stream, args.count, (args.width + args.hidden_width) * 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* const d_y = args.d_y.f32() + i * args.d_y.stride;                 // [D]
      float* const d_hidden = args.d_hidden.f32() + i * args.d_hidden.stride;  // [F]
      const float* const hidden = args.hidden.f32() + i * args.hidden.stride;  // [F]
      const int32_t slot = args.slots[i];
      if (args.d_weights.data != nullptr) {
        // d_y (down hidden + bias), with the product at the other factor.
        const float of_bias = args.bias != nullptr ? dot(d_y, args.bias, args.width) : 0.0f;
        args.d_weights.f32()[slot] = dot(d_hidden, hidden, args.hidden_width) + of_bias;
      }
      const float weight = args.weights.f32()[slot];
      multiply(d_y, args.width, weight);
      multiply(d_hidden, args.hidden_width, weight);
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
