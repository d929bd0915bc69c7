// SPDX-License-Identifier: Apache-2.0
// The norms as a profile of a narrower implementation has them: every operation's result rounded to the type it has
// there. Moments are summed in f64, so that what is rounded is the value itself.
#include "carousel/ops/norm/norm_cast_cpu.h"
#include "carousel/cpu/divide.h"
#include "carousel/ops/norm/norm.h"

namespace carousel::cpu::CAROUSEL_ISA {
namespace {

constexpr int64_t kWorkPerElement = 64;

inline float sigmoid1(float x) { return sigmoid(set1(x))[0]; }

void gate_head(const ops::CastNormArgs& args, int64_t n, int64_t first, float* out) {
  const ops::HeadNormArgs& norm = args.norm;
  const Rounding round(args.activations), gate_round(args.gates);
  for (int64_t j = 0; j < norm.dv; ++j) {
    if (norm.skip.data != nullptr) {
      const float skip = round(norm.skip_weight[first + j] * norm.skip.data[n * norm.skip.stride + first + j]);
      out[j] = round(out[j] + skip);
    }
    if (norm.gate == ops::HeadGate::Kind::kNone) continue;
    const float pre = norm.pre.data[n * norm.pre.stride + first + j];
    const float gate = norm.gate == ops::HeadGate::Kind::kSigmoid ? sigmoid1(pre) : pre * sigmoid1(pre);
    out[j] = round(gate_round(gate) * out[j]);
  }
}

}  // namespace

void cast_norm(const Stream& stream, const ops::CastNormArgs& args) {
  const ops::HeadNormArgs& norm = args.norm;
  const int64_t width = norm.heads * norm.dv;
  const Rounding round(args.activations);
  parallel_ranges(stream, norm.rows, width * kWorkPerElement, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* x = norm.h + n * width;
      if (args.y != nullptr) {
        for (int64_t j = 0; j < width; ++j) args.sum[n * width + j] = round(x[j] + args.y[n * width + j]);
        x = args.sum + n * width;
      }
      if (norm.kind == ops::Norm::Kind::kNone && norm.out == args.sum) continue;
      for (int64_t first = 0; first < width; first += norm.dv) {
        float* out = norm.out + n * width + first;
        const float* weight = norm.weight == nullptr ? nullptr : norm.weight + first;
        const float* bias = norm.bias == nullptr ? nullptr : norm.bias + first;
        cast_norm_row({norm.kind, norm.eps, args.rule, args.activations}, x + first, weight, bias, norm.dv, out);
        gate_head(args, n, first, out);
      }
    }
  });
}

}  // namespace carousel::cpu::CAROUSEL_ISA
