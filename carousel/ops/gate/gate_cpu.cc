// SPDX-License-Identifier: Apache-2.0
// Elementwise gates: every lane computes the same expression, so the division of the work changes no bit.
#include "carousel/ops/gate/gate_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"
#include "carousel/ops/gate/activations_cpu.h"
#include "carousel/ops/gate/gate_values_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 32;
constexpr int64_t kBlock = 1024;  // elements per item: a row of logits is worth many threads

/// Applies gated(Vec gate, Vec up) -> Vec to every element.
template <class F>
inline void for_values(const float* gate, const float* up, float* out, int64_t count, F&& gated) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, gated(load(gate + j), load(up + j)));
  if (const int64_t rest = count - j; rest > 0) {
    store_partial(out + j, gated(load_partial(gate + j, rest), load_partial(up + j, rest)), rest);
  }
}

void rounded_values(const ops::GatedUnitArgs& args, const float* gate, const float* up, float* out) {
  const Rounding gate_round(args.gates), round(args.product);
  for_activation(args.activation, [&](auto unit) {
    for_values(gate, up, out, args.width,
               [&](Vec g, Vec u) { return round(gate_round(activate<decltype(unit)::kValue>(g)) * u); });
  });
}

void soft_cap_rounded(const Stream& stream, const ops::SoftCapArgs& args) {
  const Rounding round(args.dtype);
  const float* const x = args.x.f32();
  float* const out = args.out.f32();
  parallel_ranges(stream, args.count, kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const float capped = round(tanh(set1(round(x[j] / args.cap)))[0]);
      out[j] = round(args.cap * capped);
    }
  });
}

}  // namespace

void gate_values(ops::Activation activation, const float* gate, const float* up, float* out, int64_t count) {
  for_activation(activation, [&](auto unit) {
    for_values(gate, up, out, count, [](Vec g, Vec u) { return activate<decltype(unit)::kValue>(g) * u; });
  });
}

void gated_unit(const Stream& stream, const ops::GatedUnitArgs& args) {
  const bool rounds = args.gates != DType::kF32 || args.product != DType::kF32;
  parallel_ranges(stream, args.rows, args.width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* gate = args.gate_up.f32() + n * args.gate_up.stride;  // [F]
      const float* up = gate + args.width;                               // [F]
      float* out = args.out.f32() + n * args.out.stride;                 // [F]
      if (rounds)
        rounded_values(args, gate, up, out);
      else
        gate_values(args.activation, gate, up, out, args.width);
    }
  });
}

void soft_cap(const Stream& stream, const ops::SoftCapArgs& args) {
  if (args.dtype != DType::kF32) return soft_cap_rounded(stream, args);
  const auto capped = [cap = set1(args.cap)](Vec x) { return ops::soft_capped<VecMath>(x, cap); };
  const float* const x = args.x.f32();
  float* const out = args.out.f32();
  const int64_t blocks = (args.count + kBlock - 1) / kBlock;
  parallel_ranges(stream, blocks, kBlock * kWorkPerElement, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kBlock < args.count ? end * kBlock : args.count;
    int64_t j = begin * kBlock;
    for (; j + kLanes <= last; j += kLanes) store(out + j, capped(load(x + j)));
    if (const int64_t rest = last - j; rest > 0) {
      store_partial(out + j, capped(load_partial(x + j, rest)), rest);
    }
  });
}

void gate_heads(const Stream& stream, const ops::GateHeadsArgs& args) {
  const Rounding gate_round(args.gates), round(args.product);
  parallel_ranges(stream, args.rows, args.heads * (args.dim + kWorkPerElement), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t h = 0; h < args.heads; ++h) {
        Vec gate = {};
        gate[0] = args.gate_pre.f32()[n * args.gate_pre.stride + h];
        const float share = gate_round(sigmoid(gate)[0]);
        const float* x = args.x.f32() + n * args.x.stride + h * args.dim;  // [d]
        float* out = args.out.f32() + n * args.out.stride + h * args.dim;  // [d]
        for (int64_t j = 0; j < args.dim; ++j) out[j] = round(x[j] * share);
      }
    }
  });
}

void relu(const Stream& stream, const ops::ElementwiseArgs& args) {
  const float* const x = args.x.f32();
  float* const out = args.out.f32();
  parallel_ranges(stream, args.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) out[j] = x[j] > 0 ? x[j] : 0.0f;
  });
}

void add(const Stream& stream, const ops::ElementwiseArgs& args) {
  const float *const x = args.x.f32(), *const y = args.y.f32();
  float* const out = args.out.f32();
  parallel_ranges(stream, args.count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) out[j] = x[j] + y[j];
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
