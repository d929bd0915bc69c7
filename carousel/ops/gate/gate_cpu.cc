// SPDX-License-Identifier: Apache-2.0
// Elementwise gates: every lane computes the same expression, so the division of the work changes no bit.
#include "carousel/ops/gate/gate_cpu.h"

#include "carousel/cpu/divide.h"
#include "carousel/cpu/rounding.h"
#include "carousel/cpu/vec.h"
#include "carousel/ops/gate/gate_values_cpu.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 32;
constexpr int64_t kBlock = 1024;  // elements per item: a row of logits is worth many threads

/// erf x to within 2e-7 of its value. Up to |x| = 1 the Taylor series, beyond it 1 - e^(-x^2) times a polynomial in
/// 1 / (1 + p |x|) (Abramowitz and Stegun, 7.1.26).
inline Vec erf(Vec x) {
  const Vec magnitude = max(x, -x);
  const Vec x2 = x * x;
  Vec near = set1(-1.0f / 6894720);  // (-1)^n / (n! (2n + 1)), n = 9
  near = fma(near, x2, set1(1.0f / 685440));
  near = fma(near, x2, set1(-1.0f / 75600));
  near = fma(near, x2, set1(1.0f / 9360));
  near = fma(near, x2, set1(-1.0f / 1320));
  near = fma(near, x2, set1(1.0f / 216));
  near = fma(near, x2, set1(-1.0f / 42));
  near = fma(near, x2, set1(0.1f));
  near = fma(near, x2, set1(-1.0f / 3));
  near = set1(1.12837916709551257f) * fma(near * x2, x, x);

  const Vec t = set1(1.0f) / fma(set1(0.3275911f), magnitude, set1(1.0f));
  Vec far = set1(1.061405429f);
  far = fma(far, t, set1(-1.453152027f));
  far = fma(far, t, set1(1.421413741f));
  far = fma(far, t, set1(-0.284496736f));
  far = fma(far, t, set1(0.254829592f));
  far = set1(1.0f) - far * t * exp(-x2);
  return magnitude < set1(1.0f) ? near : x < Vec{} ? -far : far;
}

template <ops::Activation kActivation>
inline Vec activate(Vec x) {
  const Vec zero = {}, one = set1(1.0f);
  switch (kActivation) {
    case ops::Activation::kSilu:
      return x * sigmoid(x);
    case ops::Activation::kGelu:
      return set1(0.5f) * x * (one + erf(x * set1(0.707106781186547524f)));
    case ops::Activation::kGeluTanh:
      return set1(0.5f) * x * (one + tanh(set1(0.797884560802865356f) * fma(set1(0.044715f) * x * x, x, x)));
    case ops::Activation::kRelu:
      return max(x, zero);
    case ops::Activation::kRelu2:
      return max(x, zero) * max(x, zero);
    case ops::Activation::kSigmoid:
      return sigmoid(x);
    case ops::Activation::kSelu:
      return set1(1.0507009873554805f) * (max(x, zero) + set1(1.6732632423543772f) * (exp(min(x, zero)) - one));
  }
}

/// Applies gated(Vec gate, Vec up) -> Vec to every element.
template <class F>
inline void for_values(const float* gate, const float* up, float* out, int64_t count, F&& gated) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(out + j, gated(load(gate + j), load(up + j)));
  if (const int64_t rest = count - j; rest > 0) {
    store_partial(out + j, gated(load_partial(gate + j, rest), load_partial(up + j, rest)), rest);
  }
}

/// Calls f(Unit<activation>).
template <ops::Activation kActivation>
struct Unit {
  static constexpr ops::Activation kValue = kActivation;
};
template <class F>
inline void for_activation(ops::Activation activation, F&& f) {
  using ops::Activation;
  switch (activation) {
    case Activation::kSilu:
      return f(Unit<Activation::kSilu>());
    case Activation::kGelu:
      return f(Unit<Activation::kGelu>());
    case Activation::kGeluTanh:
      return f(Unit<Activation::kGeluTanh>());
    case Activation::kRelu:
      return f(Unit<Activation::kRelu>());
    case Activation::kRelu2:
      return f(Unit<Activation::kRelu2>());
    case Activation::kSigmoid:
      return f(Unit<Activation::kSigmoid>());
    case Activation::kSelu:
      return f(Unit<Activation::kSelu>());
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
  float* const x = args.x.f32();
  parallel_ranges(stream, args.count, kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const float capped = round(tanh(set1(round(x[j] / args.cap)))[0]);
      x[j] = round(args.cap * capped);
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
  const Vec cap = set1(args.cap);
  float* const x = args.x.f32();
  const int64_t blocks = (args.count + kBlock - 1) / kBlock;
  parallel_ranges(stream, blocks, kBlock * kWorkPerElement, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kBlock < args.count ? end * kBlock : args.count;
    int64_t j = begin * kBlock;
    for (; j + kLanes <= last; j += kLanes) store(x + j, cap * tanh(load(x + j) / cap));
    if (const int64_t rest = last - j; rest > 0) {
      store_partial(x + j, cap * tanh(load_partial(x + j, rest) / cap), rest);
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
